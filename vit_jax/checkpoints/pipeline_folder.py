"""A folder of several models with a `model_index.json`, as diffusers writes pipelines, seen as one file of tensors."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Shaped

from vit_jax.checkpoints.json_file import read_json, shown
from vit_jax.checkpoints.safetensors import SafetensorsFile, ShardedSafetensors, parts_of
from vit_jax.errors import UserError

INDEX = "model_index.json"
# Whatever has no numbers that an image is made of.
_WITHOUT_TENSORS = ("scheduler", "tokenizer")
_SEVERAL = "MultiControlNetModel"
_NOT_LOADED = ("safety_checker", "image_encoder", "depth_estimator", "feature_extractor")
_PICKLES = (".bin", ".ckpt", ".pt")
# Names of weights and what is before their ending; what is first is taken where both are there.
_STEMS = ("model", "diffusion_pytorch_model")
_VARIANTS = ("", ".fp16")
_ONE_FILE, _SHARDS = "{}{}.safetensors", "{}.safetensors.index{}.json"


class PipelineFolder:
    """All tensors of a folder; `shapes` is known at once, those of the subfolder `unet` as 'unet/conv_in.weight'.

    A subfolder's file is the one in float32 where there is one, else that in float16 ("fp16" in its name).

    Args:
        index: the path of `model_index.json`.

    Raises:
        UserError: a part that the index names is not there, or has no weights that can be read.
    """

    def __init__(self, index: Path):
        self.path, self.metadata = index, {}
        self.parts = named_parts(index)
        missing = [name for name in self.parts if not (index.parent / name).is_dir()]
        if missing:
            raise UserError(
                f"{index.parent} has no folder {shown(missing[0])}, which its {INDEX} names"
                + (f", nor {', '.join(map(shown, missing[1:]))}" if missing[1:] else ""),
                "Fetch the whole folder, or name the folder of one model",
            )
        self._files = {name: _weights(index.parent / name) for name in _with_tensors(self.parts)}
        self.shapes = {
            f"{part}/{name}": shape for part, file in self._files.items() for name, shape in file.shapes.items()
        }

    def __getitem__(self, name: str) -> Shaped[Any, "..."]:
        part, _, inner = name.partition("/")
        return self._files[part][inner]


def named_parts(index: Path) -> dict[str, str]:
    """The classes of the parts that are read of a folder, by the names of their subfolders.

    Raises:
        UserError: for an index that is damaged, or names a folder elsewhere.
    """
    said, found = read_json(index), {}
    for name, value in said.items():
        if name.startswith("_") or name in _NOT_LOADED or not isinstance(value, list) or value[-1:] == [None]:
            continue
        if len(value) != 2 or not isinstance(value[1], str) or Path(name).name != name or "\0" in name:
            raise said.error(name, f"is {shown(value)}, which names no part")
        found[name] = value[1]
        if value[1] == _SEVERAL:
            # The index names the first: the others lie beside it.
            more = (f"{name}_{i}" for i in itertools.count(1))
            found |= dict.fromkeys(itertools.takewhile(lambda each: (index.parent / each).is_dir(), more), value[1])
    return found


def keeps_parts(index: Path) -> bool:
    """Whether the models that an index names are in folders of their own: the first pipelines of one model, such as
    DDPM's, have its files beside the index."""
    beside = any(file.suffix in (".safetensors", *_PICKLES) for file in index.parent.iterdir())
    return not beside or has_folders(index)


def has_folders(index: Path) -> bool:
    """Whether a part that an index names has a folder there."""
    return any((index.parent / name).is_dir() for name in named_parts(index))


def weights_to_fetch(index: Path) -> Iterator[list[str]]:
    """Which files of weights a folder lacks of which only the JSON files are here: lists of paths seen from the index,
    each to be fetched, as far as they exist, before the next one is asked for. One file holds all that is read of a
    part, and publishers have several of it."""
    for number, variant in enumerate(_VARIANTS):
        names = []
        for part in _with_tensors(named_parts(index)):
            if not _found(index.parent / part, _VARIANTS[:number]):
                names += [f"{part}/{_ONE_FILE.format(stem, variant)}" for stem in _STEMS]
                shards = _found(index.parent / part, (variant,), (_SHARDS,))
                names += [f"{part}/{name}" for name in (parts_of(shards) if shards else ())]
        yield names


def _with_tensors(parts: Iterable[str]) -> list[str]:
    return [name for name in parts if name not in _WITHOUT_TENSORS]


def _found(
    folder: Path, variants: Sequence[str] = _VARIANTS, forms: Sequence[str] = (_ONE_FILE, _SHARDS)
) -> Path | None:
    """The file of weights of a subfolder, or their index, that is taken before others; None where there is none."""
    for variant, stem, form in itertools.product(variants, _STEMS, forms):
        if (file := folder / form.format(stem, variant)).is_file():
            return file
    return None


def _weights(folder: Path) -> SafetensorsFile | ShardedSafetensors:
    """The tensors of a subfolder."""
    if file := _found(folder):
        return SafetensorsFile(file) if file.suffix == ".safetensors" else ShardedSafetensors(file)
    if any(file.suffix in _PICKLES for file in folder.iterdir()):
        raise UserError(
            f"{folder} has its weights as a pickle: opening it could run code, so vit_jax never does",
            "Take the .safetensors files of the same model",
        )
    raise UserError(f"{folder} has no weights", "Fetch the .safetensors files that belong there")
