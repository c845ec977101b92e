"""Carrying parameters over: from a checkpoint into a model that may differ in head, resolution or anything else."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from vit_jax.checkpoints.store import find, read_metadata, read_params
from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.posemb import interpolate_posemb

_HEAD = "head"
_POSEMB = "pos_embedding"


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every parameter, as names like 'encoder/block_00/mlp/fc1/kernel'.

    Args:
        loaded: taken over as they are.
        resized: position embeddings interpolated to another grid, as 'name (4, 4) -> (8, 8)'.
        missing: in the model but not in the source: they keep their fresh values.
        unused: in the source but not in the model.
    """

    source: str
    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"init_from {self.source}: {len(self.loaded)} parameters loaded"]
        for verb in ("resized", "missing", "unused"):
            names = getattr(self, verb)
            # A whole missing tower is one line, not a hundred.
            groups = Counter(n if verb == "resized" else "/".join(n.split("/")[:2]) for n in names)
            listed = ", ".join(f"{g} ({c} arrays)" if c > 1 else g for g, c in groups.items())
            lines.append(f"  {verb:8} {len(names):3}  {listed}".rstrip())
        return "\n".join(lines)


def init_from(params: PyTree, sources: str | Mapping[str, str]) -> tuple[dict[str, np.ndarray], list[Report]]:
    """Parameters for `params` out of checkpoints.

    Args:
        params: the fresh parameters, or their shapes.
        sources: a checkpoint, for all that it has in common with the model except `head`; or `{subtree: source}`
            with sources 'path' (its subtree of the same name) or 'path::subtree'.

    Position embeddings of another grid are interpolated as the source says (the model's `posemb_resize`).

    Returns:
        Flat name -> array for the parameters that were found, and a report for each source.

    Raises:
        UserError: not a checkpoint, nothing in common, or an array of another shape.
    """
    target = {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    if isinstance(sources, str):
        wanted = {n: s for n, s in target.items() if n.split("/")[0] != _HEAD}
        found, report = _match(target, wanted, *_read(sources), sources, whole=True)
        return found, [report]
    found, reports = {}, []
    for subtree, source in sources.items():
        wanted = {n: s for n, s in target.items() if n == subtree or n.startswith(subtree + "/")}
        if not wanted:
            known = {n.split("/")[0] for n in target}
            raise UserError(
                f"config.init_from fills {subtree!r}, which the model does not have", nearest(subtree, known)
            )
        path, _, inner = source.partition("::")
        inner = inner or subtree
        flat, method = _read(path)
        flat = {n.replace(inner, subtree, 1): v for n, v in flat.items() if (n + "/").startswith(inner + "/")}
        part, report = _match(wanted, wanted, flat, method, source, whole=False)
        found |= part
        reports.append(report)
    return found, reports


def starting_point(source: str, image_size: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `model` and `data` sections of a config that goes on from a checkpoint with a new head.

    Args:
        source: a workdir or step directory of this project.
        image_size: side of the square that the model is to see; by default what the checkpoint was trained on.

    Returns:
        The model's name and arguments but for those of the head (`num_classes`, `representation_size`,
        `head_bias_init`); and `image_size` and `preprocess` as stored, with `resize_to` in the same proportion.
    """
    path = find(source)
    metadata = read_metadata(path)
    if metadata["model"] is None or metadata["preprocess"] is None:
        raise UserError(f"{path} names no image model", "Give a checkpoint of an image model")
    model = {"name": metadata["model"]["name"], **metadata["model"]["kwargs"]}
    for key in ("num_classes", "representation_size", "head_bias_init"):
        model.pop(key, None)
    preprocess = dict(metadata["preprocess"])
    stored = preprocess.pop("image_size")
    size = [image_size, image_size] if image_size else stored
    if preprocess.get("resize_to"):
        preprocess["resize_to"] = max(*size, round(preprocess["resize_to"] * min(size) / min(stored)))
    return model, {"image_size": size, "preprocess": preprocess}


def _read(source: str) -> tuple[dict[str, np.ndarray], str]:
    """Flat parameters, and how their positions want to be interpolated."""
    path = find(source)
    params, _ = read_params(path)
    flat = {
        jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(leaf)
        for p, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    model = read_metadata(path)["model"] or {}
    return flat, model.get("kwargs", {}).get("posemb_resize", "align_corners")


def _match(
    target: dict, wanted: dict, source: dict[str, np.ndarray], method: str, name: str, whole: bool
) -> tuple[dict[str, np.ndarray], Report]:
    found, resized = {}, []
    for key, shape in wanted.items():
        if key not in source:
            continue
        value = source[key]
        if (
            value.shape != shape
            and key.endswith("/" + _POSEMB)
            and value.ndim == len(shape) == 3
            and value.shape[2] == shape[2]
        ):
            resized.append(f"{key} {value.shape[:2]} -> {shape[:2]}")
            value = interpolate_posemb(value, shape[:2], method)
        if value.shape != shape:
            raise UserError(
                f"{name} has {key} of shape {value.shape}, the model needs {shape}",
                "Choose the model that was saved, or name the subtrees to load with config.init_from.SUBTREE",
            )
        found[key] = value
    if not found:
        raise UserError(f"{name} has no parameter in common with the model", "Check config.init_from and config.model")
    names_resized = {r.split(" ")[0] for r in resized}
    report = Report(
        source=name,
        loaded=tuple(k for k in found if k not in names_resized),
        resized=tuple(resized),
        missing=tuple(k for k in (target if whole else wanted) if k not in found),
        unused=tuple(k for k in source if k not in found),
    )
    return found, report
