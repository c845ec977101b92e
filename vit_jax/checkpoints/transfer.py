"""Carrying weights over: from a checkpoint into a model that may differ in head, resolution or anything else."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import PyTree

from vit_jax.checkpoints.channels import channels_of, fitted_kernel
from vit_jax.checkpoints.description import image_section, rebuilt
from vit_jax.checkpoints.source import flat_shapes, nested, open_source
from vit_jax.checkpoints.vocabulary import Sections, check_vocabulary
from vit_jax.data.files import is_remote
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError, printable
from vit_jax.naming import build_named, nearest
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.posemb import SINCOS2D, fitted_positions, sincos2d

_HEADS = ("head", "distillation_head")
_PARAMS = "params/"
_TEXT = "text"  # the subtree that reads tokens
_TOKENIZER = "tokenizer"  # the one that makes them of images, and a model by itself


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every parameter, as names like 'encoder/block_00/mlp/fc1/kernel'.

    The model's state goes by names that start with its collection: 'batch_stats/encoder/norm1/mean'.

    Args:
        loaded: parameters that were taken over as they are.
        state: the same for the model's state.
        resized: positions interpolated to another grid or window, as 'name (4, 4) -> (8, 8)', and the first kernel for
            images of other channels.
        missing: in the model but not in the source: they keep their fresh values.
        unused: in the source but not in the model.
        path: of the source as it was found: a step directory or a file, or its address, on the hub with the commit.
        names: from the name of each parameter that was loaded to its name in the source.
    """

    source: str
    loaded: tuple[str, ...]
    state: tuple[str, ...]
    resized: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    path: str = ""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def found_in(self, path: str, names: Mapping[str, str]) -> Self:
        """The same with where it was found, from names of the model and of the source with their collections."""
        own = {name: _shown(names[_PARAMS + name]) for name in self.loaded if _PARAMS + name in names}
        return dataclasses.replace(self, path=path, names=own)

    def __str__(self) -> str:
        state = "".join(f", {c} arrays of {g}" for g, c in Counter(n.split("/")[0] for n in self.state).items())
        found = f" ({self.path})" if self.path.startswith("hf://") and self.path != self.source else ""
        lines = [f"init_from {self.source}{found}: {len(self.loaded)} parameters loaded{state}"]
        for verb in ("resized", "missing", "unused"):
            names = getattr(self, verb)
            # A whole missing tower is one line, not a hundred.
            groups = Counter(n if verb == "resized" else "/".join(n.split("/")[:2]) for n in names)
            listed = ", ".join(f"{g} ({c} arrays)" if c > 1 else g for g, c in groups.items())
            lines.append(f"  {verb:8} {len(names):3}  {listed}".rstrip())
        return "\n".join(map(printable, lines))


def check_sources(sources: str | Mapping[str, str], fields: Sections = None) -> None:
    """Refuses what `init_from` could not open, and text networks that were trained on other tokens than those of
    `fields`, before anything is computed or written; arrays are not read."""
    if not isinstance(sources, (str, Mapping)):
        raise UserError(f"config.init_from is {sources!r}", "Give a checkpoint, or {subtree: checkpoint}")
    opening = functools.lru_cache(maxsize=1)(open_source)
    for subtree, source in [(_TEXT, sources)] if isinstance(sources, str) else sources.items():
        if not isinstance(source, str):
            raise UserError(f"config.init_from holds {source!r}", "Give the path of a checkpoint for each subtree")
        opened = opening(source.partition("::")[0])
        if subtree.partition("/")[0] == _TEXT:
            check_vocabulary(opened.path, opened.metadata.get("fields"), fields)


def init_from(
    variables: Mapping[str, PyTree], sources: str | Mapping[str, str]
) -> tuple[dict[str, np.ndarray], list[Report]]:
    """Parameters and state for a model out of checkpoints.

    Args:
        variables: the fresh ones as Linen has them, `{"params": ..., **model_state}`, or their shapes.
        sources: a checkpoint, for all that it has in common with the model except `head`; or `{subtree: source}`
            with sources 'path' (its subtree of the same name; for "tokenizer" all of a source without one, which is a
            tokenizer by itself), 'path::subtree' or 'path::' (all of it, so that a model lies below another's name, as
            a teacher does). A subtree is one of every collection: the running statistics of an encoder come with its
            parameters. The subtree "" is all that no other one names, heads too.

    The first kernel is fitted to another number of channels, see `vit_jax.checkpoints.channels.fit_channels`.
    Positions of another grid or window are interpolated, see `vit_jax.nn.posemb.fitted_positions`; grids as the source
    says (the model's `posemb_resize`). A model that learns its positions starts from those that its source computes.

    Returns:
        Flat name ('params/encoder/...', 'batch_stats/encoder/...') -> array for what was found, and a report for each
        source.

    Raises:
        UserError: not a checkpoint, no parameter in common, or an array of another shape.
    """
    target = flat_shapes(variables)
    if isinstance(sources, str):
        wanted = {n: s for n, s in target.items() if not _is_in(n, *_HEADS)}
        path, *both, method = _read(sources)
        found, report = _match(target, wanted, *both, method, sources)
        return found, [report.found_in(path, {n: n for n in both[0]})]
    found, reports = {}, []
    # A source is read once for all subtrees in a row that come from it; only the last one stays in memory.
    reading = functools.lru_cache(maxsize=1)(_read)
    for subtree, source in sources.items():
        wanted = {n: s for n, s in target.items() if _is_in(n, subtree)}
        if not subtree:
            wanted = {n: s for n, s in target.items() if not _is_in(n, *filter(None, sources))}
        if not wanted:
            known = {n.split("/")[1] for n in target if n.startswith(_PARAMS)}
            raise UserError(
                f"config.init_from fills {subtree!r}, which the model does not have", nearest(subtree, known)
            )
        path, whole, inner = source.partition("::")
        inner = inner if whole else subtree
        lies, *both, method = reading(path)
        if not whole and subtree == _TOKENIZER and not any(_is_in(n, subtree) for n in both[0]):
            inner = ""
        advice = _elsewhere(wanted, subtree, both[0], path)
        before, after = (f"/{name}/" if name else "/" for name in (inner, subtree))
        flat, computed = (
            {n.replace(before, after, 1): v for n, v in of.items() if not inner or _is_in(n, inner)} for of in both
        )
        part, report = _match(wanted, wanted, flat, computed, method, source, advice)
        found |= part
        reports.append(report.found_in(lies, {n.replace(before, after, 1): n for n in both[0]}))
    return found, reports


def _elsewhere(wanted: Collection[str], subtree: str, source: Collection[str], path: str) -> str | None:
    """What to write where a source has all that is wanted of one subtree below another name."""
    for other in dict.fromkeys(name.split("/")[1] for name in source):
        if all(name.replace(f"/{subtree}/", f"/{other}/", 1) in source for name in wanted):
            return f"Its subtree {other!r} has them: config.init_from.{subtree}={path}::{other}"
    return None


def _is_in(name: str, *subtrees: str) -> bool:
    """Whether a name, which starts with its collection, is in one of the subtrees."""
    inner = name.partition("/")[2] + "/"
    return any(inner.startswith(subtree + "/") for subtree in subtrees)


def starting_point(source: str, image_size: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `model` and `data` sections of a config that goes on from a checkpoint with a new head.

    Args:
        source: a workdir or step directory of this project.
        image_size: side of the square that the model is to see; by default what the checkpoint was trained on.

    Returns:
        The model's name and arguments except for those of the head (`num_classes`, `representation_size`,
        `head_bias_init`); and `image_size` and `preprocess` as stored, with `resize_to` in the same proportion.
    """
    opened = open_source(source)
    metadata = opened.metadata
    if metadata["model"] is None or metadata["preprocess"] is None:
        raise UserError(f"{opened.path} names no image model", "Give a checkpoint of an image model")
    task, _ = rebuilt(metadata, opened.path)
    model = dict(image_section(task.downstream or metadata["model"]))
    for key in ("num_classes", "representation_size", "head_bias_init"):
        model.pop(key, None)
    stored = Preprocess.from_json(metadata["preprocess"])
    preprocess = (stored.resized(image_size) if image_size else stored).to_json()
    return model, {"image_size": preprocess.pop("image_size"), "preprocess": preprocess}


def teacher_sections(source: str) -> dict[str, Any]:
    """Of a config's `task` section what says who teaches: `teacher`, `teacher_sees` and `teacher_classes`, see
    `vit_jax.tasks.distil.build`. Its parameters come with `init_from={"teacher": "SOURCE::"}`.

    Args:
        source: any image classifier that `load` reads.

    Raises:
        UserError: it names no image model.
    """
    opened = open_source(source)
    metadata = opened.metadata
    if metadata["model"] is None or metadata["preprocess"] is None:
        raise UserError(f"{opened.path} names no image model", "Give a classifier of images as the teacher")
    pixels = Preprocess.from_json(metadata["preprocess"])
    return {
        "teacher": {"name": metadata["model"]["name"], **metadata["model"]["kwargs"]},
        "teacher_sees": {key: list(getattr(pixels, key)) for key in ("image_size", "mean", "std")},
        "teacher_classes": list(metadata["labels"]) or None,
    }


def starting_towers(source: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The `model` and `data` sections of a config that goes on from images and texts in one space, and the section of
    its tokenizer.

    Raises:
        UserError: for a checkpoint of another kind, or of unknown tokens.
    """
    opened = open_source(source)
    metadata = opened.metadata
    model, text = metadata["model"], (metadata.get("fields") or {}).get("text", {})
    if model is None or metadata["preprocess"] is None or "tokenizer" not in text:
        raise UserError(
            f"{opened.path} is no model of images and texts that names its tokenizer",
            "Give a checkpoint such as CLIP's",
        )
    # The vocabulary is the tokenizer's to say.
    own = {name: value for name, value in model["kwargs"].items() if name not in ("vocab_size", "end_id")}
    preprocess = dict(metadata["preprocess"])
    data = {"image_size": preprocess.pop("image_size"), "preprocess": preprocess}
    return {"name": model["name"], **own}, data, text["tokenizer"]


def fit_positions(
    params: PyTree, model: nn.Module, size: tuple[int, int], method: str = "align_corners"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`params` with learned positions interpolated to what the model has for images of `size` pixels [h, w].

    Args:
        method: see `vit_jax.nn.posemb.interpolate_posemb`.

    Returns:
        The parameters, and what was resized as `Report` has it.

    Raises:
        UserError: when anything but positions would have to change.
    """
    inputs = jax.eval_shape(lambda: example_inputs(model, size, channels_of(params) or 3))
    variables = init_shapes(lambda key, x: model.init(key, *x, train=False), jax.random.key(0), inputs)
    flat, resized = flat_arrays(params), []
    for name, shape in flat_shapes(variables["params"]).items():
        value = flat[name]
        if value.shape == shape:
            continue
        fitted = fitted_positions(name, np.asarray(value), shape, method)
        if fitted is None:
            raise UserError(
                f"{name} is {value.shape} and would have to be {shape} for images of {size[0]}x{size[1]} pixels",
                "Use the image size that the weights were made for",
            )
        resized.append(_change(name, value.shape, shape))
        flat[name] = jnp.asarray(fitted)
    return nested(flat), tuple(resized)


def _change(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> str:
    """The last axis of positions, their width or their heads, stays what it is."""
    return f"{name} {old[:-1]} -> {new[:-1]}"


def flat_arrays(params: PyTree) -> dict[str, Any]:
    """Flat name -> leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _read(source: str) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """Where it lies, flat parameters and state, positions that the model computes instead of holding them, and how
    positions have to be interpolated."""
    opened = open_source(source)
    params, model_state = opened.read()
    flat = {name: np.asarray(leaf) for name, leaf in flat_arrays({"params": params, **model_state}).items()}
    lies = source if is_remote(source) else os.path.abspath(opened.path)
    if source.startswith("hf://"):
        lies = opened.metadata["source"]["address"]
    return lies, flat, _computed(opened.metadata), resize_method(opened.metadata["model"])


def _computed(metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The fixed positions of an image trunk, by the name that they have in one that learns them."""
    if metadata["model"] is None or not metadata.get("image_size"):
        return {}
    section = image_section(metadata["model"])
    section = section.get("trunk", section)
    if section["name"] != "vit" or section.get("posemb") not in SINCOS2D:
        return {}
    encoder = build_named("model", {**section, "num_classes": 0}, "model").encoder
    grid = encoder.grid(metadata["image_size"])
    return {f"{_PARAMS}encoder/pos_embedding": sincos2d(grid, encoder.width, **SINCOS2D[section["posemb"]])}


def resize_method(spec: Mapping[str, Any] | None) -> str:
    """How the positions of the model that the metadata describes have to be interpolated."""
    section = {} if spec is None else image_section(spec)
    return section.get("trunk", section).get("posemb_resize", "align_corners")


def _match(
    target: dict,
    wanted: dict,
    source: dict[str, np.ndarray],
    computed: dict[str, np.ndarray],
    method: str,
    name: str,
    advice: str | None = None,
) -> tuple[dict[str, np.ndarray], Report]:
    """What of `source`, or else of what it computes, is `wanted`, and a report on all of `target` and `source`.

    Args:
        advice: on where nothing is.
    """
    found, resized = {}, {}
    for key, shape in wanted.items():
        value = source.get(key, computed.get(key))
        if value is None:
            continue
        fitted = None if value.shape == shape else fitted_positions(key, value, shape, method)
        if fitted is None and value.shape != shape:
            fitted = fitted_kernel(key, value, shape)
        if fitted is not None:
            resized[key] = _change(_shown(key), value.shape, shape)
            value = fitted
        if value.shape != shape:
            raise UserError(
                f"{name} has {_shown(key)} of shape {value.shape}, the model needs {shape}",
                "Choose the model that was saved, or name the subtrees to load with config.init_from.SUBTREE",
            )
        found[key] = value
    if not any(key.startswith(_PARAMS) for key in found):
        raise UserError(
            f"{name} has no parameter in common with the model", advice or "Check config.init_from and config.model"
        )
    report = Report(
        source=name,
        loaded=tuple(_shown(k) for k in found if k.startswith(_PARAMS) and k not in resized),
        state=tuple(k for k in found if not k.startswith(_PARAMS)),
        resized=tuple(resized.values()),
        missing=tuple(_shown(k) for k in target if k not in found),
        unused=tuple(_shown(k) for k in source if k not in found),
    )
    return found, report


def _shown(name: str) -> str:
    return name.removeprefix(_PARAMS)
