"""Images and labels out of tables of columns: what the sources `parquet` and `hf` share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.label_names import label_names
from vit_jax.data.source import check_class_count
from vit_jax.errors import UserError
from vit_jax.naming import nearest


def image_bytes(value: Any) -> bytes | None:
    """The encoded image in a cell: bytes, or a struct with `bytes` as the library datasets writes it; else None."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def chosen(where: str, what: str, asked: str | None, fitting: Sequence[str], columns: Sequence[str]) -> str:
    """The column that is asked for, or else the only one that fits.

    Args:
        where: of the table, for errors.
        what: "image" or "label", the name of the argument's beginning.

    Raises:
        UserError: when it is not there, none fits, or several do.
    """
    if asked is not None:
        if asked not in columns:
            raise UserError(f"{where} has no column {asked!r}", nearest(asked, columns))
        return asked
    if what in fitting:
        return what
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(columns)
    if not fitting:
        raise UserError(f"{where} has no column of {what}s among {names}", f"Name one: {what}_key")
    raise UserError(f"{where} has several columns of {what}s: {', '.join(fitting)}", f"Name one: {what}_key")


def numbered(
    where: str, values: Sequence[Any], names: Sequence[str] | str | None, unit: str = "row"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as indices, and the classes.

    Args:
        where: of the table, for errors.
        values: whole numbers, or texts.
        names: of the classes, where they are known: texts are looked up in them. Or the name of a label space, see
            `vit_jax.data.label_names`.
        unit: what has a label, for errors.

    Raises:
        UserError: for a label that is missing, neither, or outside the classes.
    """
    names = label_names(names) if isinstance(names, str) else names
    bad = next((k for k, value in enumerate(values) if type(value) not in (int, str)), None)
    if bad is not None:
        what = "no label" if values[bad] is None else f"the label {values[bad]!r:.100}"
        raise UserError(f"{where} has {what} in {unit} {bad + 1}", "Give each a whole number or a text")
    if values and all(isinstance(value, str) for value in values):
        names = tuple(sorted(set(values)) if names is None else names)
        places = {name: k for k, name in enumerate(names)}
        labels = [places.get(value, -1) for value in values]
    else:
        if any(isinstance(value, str) for value in values):
            raise UserError(f"{where} has labels that are numbers, and others that are texts", "Make them alike")
        labels = list(values)
        if names is None:
            names = [str(k) for k in range(check_class_count(where, max(labels, default=-1) + 1))]
    outside = next((k for k, label in enumerate(labels) if not 0 <= label < len(names)), None)
    if outside is not None:
        raise UserError(
            f"{where} has the label {values[outside]!r:.100} in {unit} {outside + 1}, outside its {len(names)} classes",
            "Give label_names with all classes, or mend it",
        )
    return np.array(labels, np.int32), tuple(map(str, names))
