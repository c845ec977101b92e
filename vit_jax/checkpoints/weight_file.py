"""The weight file that a path means, opened, and what lies beside it: of any library, in any of its formats."""

import dataclasses
from pathlib import Path

from vit_jax.checkpoints import peft, remote
from vit_jax.checkpoints.json_file import JsonObject, read_json, shown
from vit_jax.checkpoints.npz import NpzFile
from vit_jax.checkpoints.pipeline_folder import INDEX, PipelineFolder, keeps_parts, named_parts
from vit_jax.checkpoints.published import SIDECARS, VOCABULARIES, Sidecar
from vit_jax.checkpoints.safetensors import SHARDS, SafetensorsFile, ShardedSafetensors
from vit_jax.checkpoints.steps import is_step
from vit_jax.errors import UserError

TensorFile = NpzFile | SafetensorsFile | ShardedSafetensors | PipelineFolder | peft.AdaptedFile

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".tar", ".joblib", ".npy")


def weight_file(path: Path) -> Path | None:
    """The published weight file that `path` means, None for what only our own store may know."""
    if path.is_dir():
        if (path / "checkpoints").is_dir() or is_step(path):
            return None
        if (path / INDEX).is_file() and keeps_parts(path / INDEX):
            return path / INDEX
        if (path / peft.CONFIG).is_file():
            return weight_file(path / peft.CONFIG)
        for pattern in ("model.safetensors", "*" + SHARDS, "*.safetensors", "*.npz"):
            found = sorted(path.glob(pattern))
            if len(found) > 1:
                names = ", ".join(p.name for p in found)
                raise UserError(f"{path} holds several weight files: {names}", "Name one of them")
            if found:
                return weight_file(found[0])
        if pickles := sorted(p.name for p in path.iterdir() if p.suffix in _PICKLES):
            raise _pickle(path / pickles[0])
        return None
    if not path.exists():
        return None
    if not path.is_file():  # a pipe would be waited for, a device read without end
        raise UserError(f"{path} is not a regular file", "Give .safetensors, .npz or a checkpoint of vit_jax")
    config = path.with_name(peft.CONFIG)
    if path.name in (peft.CONFIG, peft.WEIGHTS) and config.is_file():
        if (pickled := path.with_name("adapter_model.bin")).is_file() and not path.with_name(peft.WEIGHTS).is_file():
            raise _pickle(pickled, peft.WEIGHTS)
        return config
    if path.name.endswith((".safetensors", ".npz", SHARDS)) or path.name == INDEX:
        return path
    with path.open("rb") as file:
        start = file.read(2)
    if path.suffix in _PICKLES or start[:1] == b"\x80":
        raise _pickle(path)
    raise UserError(
        f"{path} is not a weight file that vit_jax reads", "Give .safetensors, .npz or a checkpoint of vit_jax"
    )


def opened(path: Path, base: str | None = None) -> tuple[TensorFile, Sidecar]:
    """A file that `weight_file` found, and what lies beside it.

    Args:
        base: of a LoRA the path or address of the file below, where it is not the one that the adapter names.

    Raises:
        UserError: it cannot be read, is damaged, or is an adapter for another model.
    """
    try:
        return (_open(path), _sidecar(path)) if path.name != peft.CONFIG else _adapted(path, base)
    except OSError as error:
        raise UserError(f"{path} could not be read: {error}", "Check the path and your permission") from error


def _adapted(config: Path, base: str | None) -> tuple[TensorFile, Sidecar]:
    """A LoRA of PEFT on its base, and what lies beside both, of which the adapter's own counts."""
    if not config.with_name(peft.WEIGHTS).is_file():
        raise UserError(f"{config} has no {peft.WEIGHTS} beside it", "Fetch both files")
    adapter = peft.Adapter(config)
    place = adapter.base() if base is None else base
    path = Path(remote.fetch(place) if remote.is_remote(place) else place).expanduser()
    file = weight_file(path)
    if file is None or file.name in (peft.CONFIG, INDEX):
        what = "no weight file of the library that made it" if path.exists() else "not there"
        # A run that started from the adapter has that as its base: there the file is the only place to say it.
        raise UserError(
            f"{config} is an adapter beside {shown(place)}, which is {what}",
            f"Name its .safetensors file or folder by base= (--base), or as 'base_model_name_or_path' in {peft.CONFIG}",
        )
    beside, own = _sidecar(file), _sidecar(config)
    of_adapter = {name: values for name in SIDECARS if (values := getattr(own, name))}
    address = remote.pinned(place, path) if place.startswith("hf://") else None
    return peft.AdaptedFile(adapter, _open(file), address), dataclasses.replace(beside, **of_adapter)


def _open(path: Path) -> TensorFile:
    if path.name == INDEX:
        return PipelineFolder(path)
    if path.name.endswith(SHARDS):
        return ShardedSafetensors(path)
    return NpzFile(path) if path.suffix == ".npz" else SafetensorsFile(path)


def _sidecar(path: Path) -> Sidecar:
    def read(name: str) -> JsonObject:
        own = path.parent / f"{path.name}.{name}"  # what `vit_jax convert` writes beside an .npz
        file = own if path.suffix == ".npz" and own.is_file() else path.parent / name
        return read_json(file) if file.is_file() else JsonObject(where=str(file))

    parts = named_parts(path) if path.name == INDEX else ()
    names = [*VOCABULARIES, *(f"{part}/{name}" for part in parts for name in VOCABULARIES)]
    beside = {name: path.parent / name for name in names}
    return Sidecar.of(read, {name: str(file.resolve()) for name, file in beside.items() if file.is_file()}, parts)


def _pickle(path: Path, better: str = "model.safetensors") -> UserError:
    return UserError(
        f"{path} is a pickle, or may be one: opening it could run code, so vit_jax never does",
        "Take the .safetensors file of the same model, or save it with safetensors.torch.save_file: "
        'weights = torch.load("FILE", map_location="cpu", weights_only=True), and then '
        f'save_file(weights.get("state_dict", weights), "{better}")',
    )
