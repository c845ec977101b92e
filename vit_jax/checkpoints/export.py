"""Writing a model's parameters the way another library names and keeps them."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vit_jax.checkpoints import store
from vit_jax.checkpoints.description import image_section, models_beside
from vit_jax.checkpoints.formats import FORMATS
from vit_jax.checkpoints.npz import write_npz
from vit_jax.checkpoints.pipeline_folder import INDEX
from vit_jax.checkpoints.published import Sidecar, described
from vit_jax.checkpoints.safetensors import write_safetensors
from vit_jax.checkpoints.source import StoredModel, families_of
from vit_jax.checkpoints.transfer import flat_arrays
from vit_jax.errors import UserError
from vit_jax.naming import construct, named_module
from vit_jax.nn.vq import COLLECTION as CODEBOOKS

# How a model is run, trained and resized, not what it computes: no other library's file keeps these.
_NOT_ARCHITECTURE = {
    "execution", "dropout_rate", "attention_dropout_rate", "drop_path_rate", "drop_path_skip", "dtype",
    "head_bias_init", "implementation",
    "posemb_stddev", "init_stddev", "layer_scale_init", "zero_init", "gate_init", "name", "parent",
    "beta", "legacy", "kl_weight", "entropy_weight", "decay", "restart_below",
}  # fmt: skip
# What libraries call the weights in a folder, where it is not model.safetensors.
_NAMES = {"diffusers": "diffusion_pytorch_model.safetensors"}
_RESIZES = {"timm": "bicubic_antialias", "transformers": "bicubic", "open_clip": "bicubic_antialias"}


def default_format(target: Path, model: str) -> str:
    """The format that a file name asks for; of the libraries of safetensors files the first that has the model."""
    if target.name.endswith(".npz"):
        return "npz"
    if target.name.endswith(".safetensors"):
        return next((f for f in FORMATS[2:] if _families(f, model)), "timm")
    return "orbax"


def export(source: StoredModel, target: Path, to: str) -> list[Path]:
    """Writes a checkpoint in another format.

    Args:
        source: what to write, see `open_source`.
        target: a .npz file; a .safetensors file or a folder for it, with the JSON files that its library expects beside
            it, under the name that it looks for; or a workdir for "orbax". Nothing that exists is overwritten.
        to: one of `FORMATS`.

    Returns:
        The files, or the workdir.

    Raises:
        UserError: the format has no place for this model, or would give it back as another one; something is there.
    """
    spec = source.metadata["model"]
    if spec is None:
        raise UserError(f"{source.path} names no model", "Convert a checkpoint of a task with one model")
    fitting = {"npz": ".npz", "orbax": ""}.get(to, ".safetensors")
    if target.suffix in (".npz", ".safetensors") and target.suffix != fitting:
        raise UserError(
            f"{target} is the name of another format than {to}", f"Name a folder{fitting and f', or a {fitting} file'}"
        )
    if to == "orbax":
        return [_export_orbax(source, target)]
    if spec["kwargs"].get("underlying_patch"):
        raise UserError(
            "This FlexiViT has parameters for no patch size in particular, which other libraries do not resample",
            "Write it at one of them, such as --model.patch_size=16",
        )
    params, state = source.read()
    state = flat_arrays(state)
    if settled := getattr(named_module("model", spec["name"]), "settled", None):
        kwargs, state = settled(spec["kwargs"], state)
        spec = {**spec, "kwargs": kwargs}
    family, sidecar = _family_for(dataclasses.replace(source, metadata={**source.metadata, "model": spec}), to)
    size = source.metadata["image_size"]
    layout = {"image_size": list(size)} if size else {}
    task = source.metadata.get("task")
    unneeded = getattr(named_module("task", task["name"]), "TRAINING_ONLY", ()) if task else ()
    params = {name: tree for name, tree in params.items() if name not in unneeded}
    if others := models_beside(task or {"kwargs": {}}, params):
        layout["beside"] = others
    arrays = _with_codes(flat_arrays(params), state, unneeded)
    tensors = family.name_map(spec["kwargs"], layout).write(arrays)
    if filled := getattr(family, "filled", None):
        sidecar = filled(sidecar, arrays)
    _check_return(family, {"": spec, **others}, tensors, sidecar, to)
    files = _placed(family, tensors, target, to)
    folder = target.parent if target.suffix in (".npz", ".safetensors") else target
    # An .npz has no folder of its own, so what lies beside it has its name.
    prefix = next(iter(files)).name + "." if to == "npz" else ""
    beside = {folder / (prefix + name): _text(values) for name, values in sidecar.items()}
    for path in (*files, *beside):
        if path.exists():
            raise UserError(f"{path} is there already", "Remove it, or choose another place")
    for path, own in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if to == "npz":
            write_npz(path, own)
        else:
            write_safetensors(path, own, {"format": "pt"})
    for path, text in beside.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [*files, *beside]


def _placed(family: ModuleType, tensors: Mapping[str, np.ndarray], target: Path, to: str) -> dict[Path, dict]:
    """The tensors by the files that they go to; a family with `FILES` has one for each beginning of a name.

    Raises:
        UserError: for a file where a folder is needed.
    """
    named = target.suffix in (".npz", ".safetensors")
    several = getattr(family, "FILES", None)
    if several is None:
        return {target if named else target / _NAMES.get(to, "model.safetensors"): dict(tensors)}
    if named:
        raise UserError(f"{target} is one file, and {to} keeps these models in several", "Name a folder")
    placed = {
        target / file: {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
        for start, file in several.items()
    }
    return {file: found for file, found in placed.items() if found}


def _text(values: Mapping[str, Any] | str) -> str:
    """Of a file beside the tensors."""
    return values if isinstance(values, str) else json.dumps(values, indent=2) + "\n"


def _with_codes(
    params: Mapping[str, Any], state: Mapping[str, Any], unneeded: Collection[str]
) -> dict[str, np.ndarray]:
    """Parameters and state as files of others have them: codes that moving averages learned are parameters there, and
    what those are made of is left out, like what belongs to the `unneeded` subtrees."""
    found = dict(params)
    for name, value in state.items():
        kind, _, inner = name.partition("/")
        if inner.partition("/")[0] in unneeded:
            continue
        if kind != CODEBOOKS:
            found[name] = value
        elif inner.endswith("/codes"):
            found[inner] = value
    return {name: np.asarray(value) for name, value in found.items()}


def _export_orbax(source: StoredModel, workdir: Path) -> Path:
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"{workdir} is not empty", "Choose another place")
    params, model_state = source.read()
    saved = store.Store(workdir, store.Policy())
    metadata = {key: value for key, value in source.metadata.items() if key not in ("format", "step")}
    saved.save(0, {"params": params, "model_state": model_state}, {**metadata, "product": "params"})
    saved.close()
    return workdir


def _families(to: str, model: str) -> list[ModuleType]:
    return [f for f in families_of("google" if to == "npz" else to) if model in f.WRITES]


def _family_for(source: StoredModel, to: str) -> tuple[ModuleType, dict[str, dict[str, Any]]]:
    model = source.metadata["model"]["name"]
    pixels = source.metadata["preprocess"]
    metadata = {**source.metadata, "preprocess": pixels and _preprocess_for(pixels, to)}
    for family in _families(to, model):
        sidecar = family.sidecar(metadata)
        if sidecar is not None:
            return family, sidecar
    others = [f for f in FORMATS[1:] if f != to and _families(f, model)]
    raise UserError(
        f"{to} has no place for this {model}",
        f"Write it as {' or '.join([*others, 'orbax'])} with 'vit_jax convert --to'",
    )


def notes(source: StoredModel, to: str) -> list[str]:
    """Sentences on what the other library would do otherwise with this model."""
    metadata = source.metadata
    said = _of_null_class(metadata, to) + _of_one_side(metadata, to)
    kwargs = image_section(metadata["model"])
    kwargs = kwargs.get("trunk", kwargs)
    ours, theirs = kwargs.get("posemb_resize", "align_corners"), _RESIZES.get(to)
    learned = metadata["model"]["name"] in ("vit", "hybrid", "mae") and kwargs.get("posemb", "learn") == "learn"
    if learned and theirs not in (None, ours):
        height, width = metadata["image_size"]
        said.append(
            f"{to} interpolates position embeddings with {theirs}, this model with {ours}: they agree at its own "
            f"resolution, {height}x{width} pixels, and differ at others"
        )
    pixels = metadata["preprocess"]
    if pixels is None:
        return said
    resize, oblong = pixels.get("resize", "squash"), len(set(metadata["image_size"])) == 2
    if pixels != _preprocess_for(pixels, to):
        said.append(f"{to} does not resize images by area, as this model does; 'bilinear' is written, which is close")
    elif to == "transformers" and resize != "squash" and pixels.get("crop", "round") == "round":
        said.append("transformers cuts off an odd pixel at the other side than this model does")
    if to == "transformers" and resize in ("cover", "pad"):
        said.append(f"transformers has no resize of the kind {resize!r}; a short side and a crop are written")
    if to == "timm" and resize == "short_side" and oblong:
        said.append("timm resizes to cover an image that is not square, where this model fixes the short side")
    if to == "timm" and resize != "pad" and pixels.get("crop") == "floor":
        said.append("timm cuts off an odd pixel at the other side than this model does")
    return said


def _of_one_side(metadata: Mapping[str, Any], to: str) -> list[str]:
    """What becomes of a generator of images that are no squares."""
    from vit_jax.checkpoints.families.diffusers_pipeline import ONE_SIDE

    task, size = (metadata.get("task") or {}).get("name"), metadata.get("image_size") or ()
    if to != "diffusers" or task not in ONE_SIDE or len(set(size)) < 2:
        return []
    return [
        f"its pipeline of '{task}' has one number for both sides: {max(size)} is written, and {size[0]}x{size[1]} "
        "pixels have to be asked for, there by height= and width=, here by --image-size"
    ]


def _of_null_class(metadata: Mapping[str, Any], to: str) -> list[str]:
    """What becomes of the class that stands for none, by which guidance goes."""
    name, task = metadata["model"]["name"], metadata.get("task") or {"kwargs": {}}
    if to != "diffusers" or name not in ("unet", "dit") or not task["kwargs"].get("label_drop"):
        return []
    last = len(metadata["labels"])
    if name == "unet":
        return [
            f"{to} knows no null class of this model: it is written as class {last}, the last one, and read back as "
            "that, without guidance"
        ]
    return [f"its pipeline takes class 1000 for the null class, which is {last} here: guide with 1 there"] * (
        "tokenizer" in task["kwargs"] and last != 1000
    )


def _preprocess_for(preprocess: Mapping[str, Any], to: str) -> dict[str, Any]:
    """The preprocessing that another library can do."""
    area = to in _RESIZES and preprocess.get("interpolation", "area") == "area"
    return {**preprocess, "interpolation": "bilinear"} if area else dict(preprocess)


def _check_return(
    family: ModuleType,
    specs: Mapping[str, Mapping[str, Any]],
    tensors: Mapping[str, np.ndarray],
    sidecar: dict[str, dict],
    to: str,
) -> None:
    """Whoever reads the file must get this model, not one that differs in what the file cannot say; and so for those
    beside it, by their subtrees."""
    # Of several ControlNets the index names the first.
    parts = (
        {folder for folder, inside, _ in (at.partition("/") for at in sidecar) if inside} if INDEX in sidecar else ()
    )
    beside = Sidecar.of(lambda name: sidecar.get(name, {}), parts=parts)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    again = described(family, shapes, tensors.__getitem__, beside)
    if again is None:
        raise AssertionError(f"{family.__name__} does not recognise what it writes")
    for subtree, spec in specs.items():
        build = named_module("model", spec["name"]).build
        read = again.layout["beside"][subtree]["kwargs"] if subtree else again.kwargs
        here, there = (_architecture(construct(build, kwargs, "model")) for kwargs in (spec["kwargs"], read))
        for name in here:
            if here[name] != there.get(name):
                raise UserError(
                    f"{to} cannot keep {name.rpartition('.')[2]}={here[name]!r} of this model: it would be read as "
                    f"{there.get(name)!r}",
                    "Write it in another format",
                )


def _architecture(module: Any, prefix: str = "") -> dict[str, Any]:
    """What a module, and the modules and styles within it, are made of."""
    values = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name in _NOT_ARCHITECTURE:
            continue
        if isinstance(value, tuple) and value and all(map(_has_fields, value)):  # such as the styles of blocks
            values[prefix + field.name] = len(value)
            for i, part in enumerate(value):
                values |= _architecture(part, f"{prefix}{field.name}.{i}.")
        elif _has_fields(value):
            values |= _architecture(value, f"{prefix}{field.name}.")
        else:
            values[prefix + field.name] = value
    return values


def _has_fields(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)  # a class of blocks is a value
