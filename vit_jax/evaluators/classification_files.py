"""What a classifier does with each class, as tables (CSV) and as a picture (PNG)."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from vit_jax.errors import printable, shortened

_DPI = 130
_NUMBERS_UP_TO = 20  # classes: above, numbers in the cells cannot be read
_NAMES_UP_TO = 60


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A table in UTF-8; None is an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def share(part: int, whole: int) -> str | None:
    """`part / whole` to six places, None of nothing."""
    return f"{part / whole:.6f}" if whole else None


def class_table(
    names: Sequence[str],
    examples: Int[np.ndarray, " K"],
    correct: Int[np.ndarray, " K"],
    predicted: Int[np.ndarray, " K"],
    training: Int[np.ndarray, " K"] | None = None,
) -> bytes:
    """A row a class: its examples, how many were right (accuracy, or recall), and of those taken for it (precision);
    where they are known, the rarest class of the training set first, with how many examples it has there."""
    columns = zip(names, examples.tolist(), correct.tolist(), predicted.tolist(), strict=True)
    header = ["class", "examples", "correct", "accuracy", "predicted", "precision"]
    rows = [[name, n, right, share(right, n), answered, share(right, answered)] for name, n, right, answered in columns]
    if training is not None:
        header.append("training examples")
        rows = [[*rows[i], int(training[i])] for i in np.argsort(training, kind="stable")]
    return csv_bytes(header, rows)


def confusion_table(names: Sequence[str], counts: Int[np.ndarray, "K K"]) -> bytes:
    """A row a class, a column an answer."""
    return csv_bytes(
        ["class / answer", *names], ([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
    )


def confusion_picture(names: Sequence[str], counts: Int[np.ndarray, "K K"]) -> bytes:
    """A row a class, a column an answer; the colour is the share of the class's examples."""
    from matplotlib.figure import Figure  # half a second, which training does without

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(names)
    side = min(max(4.2, 1.8 + 0.42 * min(classes, _NUMBERS_UP_TO), 0.22 * min(classes, _NAMES_UP_TO)), 14.0)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest" if classes < 200 else "auto")
    axes.set(xlabel="answer", ylabel="class", title=f"{int(counts.sum()):,} examples of {classes} classes")
    if classes <= _NAMES_UP_TO:
        shown = [shortened(printable(name), 24) for name in names]
        axes.set_xticks(range(classes), shown, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(classes), shown, fontsize=8, parse_math=False)
    if classes <= _NUMBERS_UP_TO:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.046)
    bar.set_label("share of the class's examples")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
