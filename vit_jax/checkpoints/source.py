"""Any file of parameters, whoever wrote it, as metadata of our own format and parameters under our own names."""

import dataclasses
import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vit_jax.checkpoints import families, remote, store
from vit_jax.checkpoints.average import last_steps, read_averaged
from vit_jax.checkpoints.base import Base, read_bases
from vit_jax.checkpoints.description import overridden, task_of_model, task_with_model
from vit_jax.checkpoints.http import is_http
from vit_jax.checkpoints.json_file import JsonObject, read_json, shown
from vit_jax.checkpoints.name_map import NDArray
from vit_jax.checkpoints.npz import NpzFile
from vit_jax.checkpoints.pipeline_folder import INDEX, PipelineFolder, keeps_parts, named_parts
from vit_jax.checkpoints.published import VOCABULARIES, Sidecar, described
from vit_jax.checkpoints.safetensors import SafetensorsFile, ShardedSafetensors
from vit_jax.checkpoints.subtrees import merge
from vit_jax.data.label_names import label_names_for
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError, printable
from vit_jax.naming import construct, named_module
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.lora import LoRA, merged

TensorFile = NpzFile | SafetensorsFile | ShardedSafetensors | PipelineFolder

_INDEX = ".safetensors.index.json"
# Of data parallelism, of compilation, of training loops around a model.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "state_dict.")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".tar", ".joblib", ".npy")


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A checkpoint that was found and understood, before its parameters are read.

    Args:
        path: the step directory or the weight file.
        metadata: see `vit_jax.checkpoints.store`; a published file has it made from what it says about itself.
        read: gives (params, model_state), nested dicts of float32 arrays.
    """

    path: epath.Path
    metadata: Mapping[str, Any]
    read: Callable[[], tuple[dict, dict]]


def open_source(
    path: epath.PathLike,
    *,
    overrides: Mapping[str, Any] | None = None,
    sha256: str | None = None,
    allow_nonfinite: bool = False,
    checksums: bool = True,
    average: int | None = None,
    base: str | None = None,
) -> StoredModel:
    """Finds out what lies at `path`.

    Args:
        path: a workdir or step directory of this project; a .safetensors or .npz file, an index of several, or a
            folder with one of them, or with a `model_index.json`; a URL of a file, or 'hf://owner/name'.
        overrides: arguments of a published model that its file cannot say, such as `num_heads` or `gelu`; of a run's
            model those that leave its parameters as they are, see `vit_jax.checkpoints.description.overridden`.
        sha256: what the weight file must hash to.
        allow_nonfinite: also read parameters that are NaN or infinite, as a run leaves that diverged.
        checksums: compare what is read from a checkpoint of this project with the checksums saved in it.
        average: take the mean of the parameters of a workdir's last checkpoints, of so many; None for the newest.
        base: where the checkpoint lies whose frozen parameters one of this project lacks; None for where it did.

    Raises:
        UserError: nothing there, a file of another kind (pickles are never opened), damaged, of an unknown family, or
            with another hash.
    """
    path = str(path)
    if remote.is_remote(path) and not _is_remote_run(path):
        path = str(remote.fetch(path, sha256))
    file = None if remote.is_remote(path) else _weight_file(Path(path).expanduser())
    if file is None:
        if sha256:
            raise UserError(
                f"{path} is not a published weight file, so it takes no sha256",
                "Leave it out: a checkpoint of this project has checksums of its own",
            )
        steps = [store.find(path)] if average is None else last_steps(path, average)
        step = steps[-1]
        metadata = store.read_metadata(step)
        if overrides:
            metadata = overridden(metadata, overrides, path)
        # What is read is whole: nobody needs to know that it was not when it was saved.
        bases, lora = (metadata.pop(key, None) for key in ("bases", "lora"))
        if base is not None and not bases:
            raise UserError(f"{step} has all of its parameters", "Leave the base out")

        def read() -> tuple[dict, dict]:
            if average is None:
                params, model_state = store.read_params(step, metadata["product"], checksums)
            else:
                params, model_state = read_averaged(steps, metadata["product"], checksums)
            if bases:
                found = based_params(bases, step, base)
                params = merge(params, nested(found))
            if lora is not None:
                params = merged(params, construct(LoRA, lora, "metadata.lora").scale)
            if not allow_nonfinite:
                for key, leaf in jax.tree_util.tree_leaves_with_path((params, model_state)):
                    name = jax.tree_util.keystr(key[1:], simple=True, separator="/")
                    _check_finite(np.asarray(leaf), name, step)
            return params, model_state

        return StoredModel(step, metadata, read)
    if base is not None:
        raise UserError(f"{file} is no run, and has no base", "Leave the base out")
    if average is not None:
        raise UserError(f"{file} is one file of weights, not several to average", "Leave the average out")
    if sha256:
        if file.name.endswith((_INDEX, INDEX)):
            raise UserError(f"{file} is an index of several files, which no one sha256 covers", "Check them one by one")
        remote.check_sha256(file, sha256)
    return _published(file, overrides or {}, allow_nonfinite)


def based_params(bases: Sequence[Mapping[str, Any]], step: epath.Path, moved: str | None = None) -> dict[str, Any]:
    """Flat name -> value of the parameters that a step lacks, see `vit_jax.checkpoints.base.read_bases`.

    Args:
        bases: as metadata have them.
    """

    def reading(path: str) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(open_source(path).read()[0])
        return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}

    return read_bases([Base(**base) for base in bases], step, reading, moved)


def families_of(library: str | None = None) -> list[ModuleType]:
    """The modules that know other libraries' names, of one library or of all."""
    names = [module.name for module in pkgutil.iter_modules(families.__path__)]
    modules = [importlib.import_module(f"{families.__name__}.{name}") for name in names]
    return [m for m in modules if library in (None, m.LIBRARY)]


def model_shapes(model: str, kwargs: Mapping[str, Any], size: Sequence[int] | None) -> tuple[dict, dict]:
    """Flat name -> shape of the parameters of a model and of its other collections, for images of `size` [h, w] where
    it takes images.

    The names of the latter begin with their collection: 'batch_stats/encoder/norm1/mean'.
    """
    module = construct(named_module("model", model).build, kwargs, "model")
    inputs = example_inputs(module, size)
    variables = init_shapes(lambda key: module.init(key, *inputs, train=False), jax.random.key(0))
    state = {name: tree for name, tree in variables.items() if name != "params"}
    return flat_shapes(variables["params"]), flat_shapes(state)


def flat_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'a/b': x} as {'a': {'b': x}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[leaf] = value
    return tree


def _is_remote_run(path: str) -> bool:
    """Whether a URL is a workdir or step directory of ours, which Orbax reads where it is."""
    if path.startswith("hf://") or is_http(path) or path.endswith((".safetensors", ".npz", _INDEX)):
        return False
    try:
        return epath.Path(path).is_dir()
    except Exception as error:  # as in remote: each file system has errors of its own
        raise UserError(f"{path} cannot be reached: {str(error).splitlines()[0]}", "Check the address") from error


def _weight_file(path: Path) -> Path | None:
    """The published weight file that `path` means, None for what only our own store may know."""
    if path.is_dir():
        if (path / "checkpoints").is_dir() or store.is_step(path):
            return None
        if (path / INDEX).is_file() and keeps_parts(path / INDEX):
            return path / INDEX
        for pattern in ("model.safetensors", "*" + _INDEX, "*.safetensors", "*.npz"):
            found = sorted(path.glob(pattern))
            if len(found) > 1:
                names = ", ".join(p.name for p in found)
                raise UserError(f"{path} holds several weight files: {names}", "Name one of them")
            if found:
                return _weight_file(found[0])
        if pickles := sorted(p.name for p in path.iterdir() if p.suffix in _PICKLES):
            raise _pickle(path / pickles[0])
        return None
    if not path.exists():
        return None
    if not path.is_file():  # a pipe would be waited for, a device read without end
        raise UserError(f"{path} is not a regular file", "Give .safetensors, .npz or a checkpoint of vit_jax")
    if path.name.endswith((".safetensors", ".npz", _INDEX)) or path.name == INDEX:
        return path
    with path.open("rb") as file:
        start = file.read(2)
    if path.suffix in _PICKLES or start[:1] == b"\x80":
        raise _pickle(path)
    raise UserError(
        f"{path} is not a weight file that vit_jax reads", "Give .safetensors, .npz or a checkpoint of vit_jax"
    )


def _wrapper(names: Iterable[str]) -> str:
    """What wrappers of models put before every name, such as 'module._orig_mod.'; '' where nothing is."""
    names, wrapper = list(names), ""
    while found := next((w for w in _WRAPPERS if names and all(n.startswith(wrapper + w) for n in names)), ""):
        wrapper += found
    return wrapper


def _pickle(path: Path) -> UserError:
    return UserError(
        f"{path} is a pickle, or may be one: opening it could run code, so vit_jax never does",
        "Take the .safetensors file of the same model, or save it with safetensors.torch.save_file: "
        'weights = torch.load("FILE", map_location="cpu", weights_only=True), and then '
        'save_file(weights.get("state_dict", weights), "model.safetensors")',
    )


def _published(path: Path, overrides: Mapping[str, Any], allow_nonfinite: bool) -> StoredModel:
    file = _open(path)
    sidecar = _sidecar(path)
    wrapper = _wrapper(file.shapes)
    shapes = {name.removeprefix(wrapper): shape for name, shape in file.shapes.items()}

    def tensor(name: str) -> NDArray:
        array = file[wrapper + name]
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"{path} holds {shown(name)} as {array.dtype}, not as floating-point numbers",
                "Quantised weights cannot be read: take the file that they were made from",
            )
        return array

    answers = [(m, described(m, shapes, tensor, sidecar)) for m in families_of()]
    found = [(module, published) for module, published in answers if published is not None]
    if not found:
        some = ", ".join(shown(name) for name in list(shapes)[:3])
        libraries = ", ".join(sorted({m.LIBRARY for m in families_of()}))
        named = next((name for key in ("architecture", "model_type") if (name := sidecar.config.text(key))), None)
        said = "" if named is None else f"its config.json says {shown(named)}, "
        raise UserError(
            f"{path} is of no family that vit_jax knows; {said}its tensors are {some}, ...",
            f"docs/weights.md lists what is read of {libraries}",
        )
    if len(found) > 1:
        which = " and ".join(f"{m.LIBRARY}'s {m.MODELS}" for m, _ in found)
        raise UserError(f"{path} has the tensors of several families: {which}", "Keep those of one model in it")
    [(family, published)] = found
    kwargs = {**published.kwargs, **overrides}
    preprocess = published.preprocess and Preprocess.from_json(published.preprocess)
    size = preprocess and preprocess.image_size
    spec = {"name": published.model, "kwargs": kwargs}
    construct(named_module("model", published.model).build, kwargs, "overrides")  # refuses what nobody reads
    name_map = family.name_map(kwargs, published.layout)
    name_map.check(shapes, path)
    remarks = list(published.remarks)
    if left := name_map.left_out(shapes):
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        remarks.append(f"what only training needs is left out: {shown(left[0])}{more}")
    metadata = {
        "format": store.FORMAT,
        "step": 0,
        "config": {},
        "task": task_of_model(spec) if published.task is None else task_with_model(published.task, spec),
        "model": spec,
        "fields": published.fields,
        "preprocess": preprocess and preprocess.to_json(),
        "labels": list(published.labels or label_names_for(kwargs.get("num_classes", 0))),
        "image_size": size and list(size),
        "product": "params",
        "frozen": [],
        "versions": {},
        "source": {
            "remarks": remarks,
            "file": path.name,
            "library": family.LIBRARY,
            "family": family.__name__.rpartition(".")[2],
        },
    }

    for remark in remarks:
        say_once(f"{path.name}: {remark}")

    def read() -> tuple[dict, dict]:
        params, state = model_shapes(published.model, kwargs, size)
        for subtree, other in published.layout.get("beside", {}).items():
            more, more_state = model_shapes(other["name"], other["kwargs"], size)
            params |= {f"{subtree}/{name}": shape for name, shape in more.items()}
            state |= {name.replace("/", f"/{subtree}/", 1): shape for name, shape in more_state.items()}
        name_map.check_sizes(shapes, params | state, path)
        arrays = dict(_to_device(name_map.read(tensor, params | state, path), path, allow_nonfinite))
        return nested({n: arrays[n] for n in params}), nested({n: arrays[n] for n in state})

    return StoredModel(epath.Path(path), metadata, read)


@functools.cache
def say_once(line: str) -> None:
    """Prints a line, once in a process however often a file is opened."""
    print(printable(line), file=sys.stderr, flush=True)


def _to_device(
    arrays: Iterator[tuple[str, NDArray]], path: Path, allow_nonfinite: bool
) -> Iterator[tuple[str, jax.Array]]:
    """One array at a time, so that the file's and the device's copies never exist of all of them together."""
    device = jax.local_devices()[0]
    for name, array in arrays:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is looked at next
            array = np.asarray(array, np.float32)
        if not allow_nonfinite:
            _check_finite(array, name, path)
        # A copy where the memory is the file's, which others may change.
        yield name, jax.device_put(array if _owns_memory(array) else array.copy(), device)


def _check_finite(array: NDArray, name: str, path: epath.PathLike) -> None:
    """Refuses NaN and infinity; in one pass without a copy, because both survive in a sum."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(array.sum()) and not np.isfinite(array).all():  # finite values may have an infinite sum
            raise UserError(
                f"{path} has values in {name} that are NaN or infinite",
                "Take another checkpoint, or load it all the same with allow_nonfinite=True (--allow-nonfinite)",
            )


def _owns_memory(array: np.ndarray) -> bool:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.flags.owndata


def _open(path: Path) -> TensorFile:
    try:
        if path.name == INDEX:
            return PipelineFolder(path)
        if path.name.endswith(_INDEX):
            return ShardedSafetensors(path)
        return NpzFile(path) if path.suffix == ".npz" else SafetensorsFile(path)
    except OSError as error:
        raise UserError(f"{path} could not be read: {error}", "Check the path and your permission") from error


def _sidecar(path: Path) -> Sidecar:
    def read(name: str) -> JsonObject:
        own = path.parent / f"{path.name}.{name}"  # what `vit_jax convert` writes beside an .npz
        file = own if path.suffix == ".npz" and own.is_file() else path.parent / name
        return read_json(file) if file.is_file() else JsonObject(where=str(file))

    parts = named_parts(path) if path.name == INDEX else ()
    names = [*VOCABULARIES, *(f"{part}/{name}" for part in parts for name in VOCABULARIES)]
    beside = {name: path.parent / name for name in names}
    return Sidecar.of(read, {name: str(file.resolve()) for name, file in beside.items() if file.is_file()}, parts)
