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

from vit_jax.checkpoints import families, peft, remote, store
from vit_jax.checkpoints.average import last_steps, read_averaged
from vit_jax.checkpoints.base import Base, read_bases
from vit_jax.checkpoints.description import overridden, task_of_model, task_with_model
from vit_jax.checkpoints.http import is_http
from vit_jax.checkpoints.json_file import shown
from vit_jax.checkpoints.name_map import NDArray
from vit_jax.checkpoints.pipeline_folder import INDEX
from vit_jax.checkpoints.published import Sidecar, described
from vit_jax.checkpoints.safetensors import SHARDS
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.subtrees import merge
from vit_jax.checkpoints.weight_file import TensorFile, opened, weight_file
from vit_jax.data.label_names import label_names_for
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError, printable
from vit_jax.naming import construct, named_module
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.lora import LoRA, merged

# Of data parallelism, of compilation, of training loops around a model.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "state_dict.")


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
            folder with one of them, with a `model_index.json`, or with a LoRA of PEFT; a URL of a file, or
            'hf://owner/name'.
        overrides: arguments of a published model that its file cannot say, such as `num_heads` or `gelu`; of a run's
            model those that leave its parameters as they are, see `vit_jax.checkpoints.description.overridden`.
        sha256: what the weight file must hash to.
        allow_nonfinite: also read parameters that are NaN or infinite, as a run leaves that diverged.
        checksums: compare what is read from a checkpoint of this project with the checksums saved in it.
        average: take the mean of the parameters of a workdir's last checkpoints, of so many; None for the newest.
        base: where the checkpoint lies beside which adapters were trained, a published one for PEFT's; None for where
            they say.

    Raises:
        UserError: nothing there, a file of another kind (pickles are never opened), damaged, of an unknown family, or
            with another hash.
    """
    address = path = str(path)
    if remote.is_remote(path) and not _is_remote_run(path):
        fetched = remote.fetch(path, sha256)
        address, path = remote.pinned(address, fetched), str(fetched)
    file = None if remote.is_remote(path) else weight_file(Path(path).expanduser())
    if file is None:
        if sha256:
            raise UserError(
                f"{path} is not a published weight file, so it takes no sha256",
                "Leave it out: a checkpoint of this project has checksums of its own",
            )
        steps = [find(path)] if average is None else last_steps(path, average)
        step = steps[-1]
        metadata = store.read_metadata(step)
        if overrides:
            metadata = overridden(metadata, overrides, path)
        # What is read is whole: nobody needs to know that it was not when it was saved.
        bases, lora = (metadata.pop(key, None) for key in ("bases", "lora"))
        if base is not None and not bases:
            raise UserError(f"{step} has all of its parameters", "Leave the base out")

        def read() -> tuple[dict, dict]:
            based = nested(based_params(bases, step, base)) if bases else {}

            def whole(params: dict) -> dict:
                params = merge(params, based)
                return params if lora is None else merged(params, construct(LoRA, lora, "metadata.lora").scale)

            if average is None:
                params, model_state = store.read_params(step, metadata["product"], checksums)
                params = whole(params)
            else:
                params, model_state = read_averaged(steps, metadata["product"], checksums, whole)
            if not allow_nonfinite:
                for key, leaf in jax.tree_util.tree_leaves_with_path((params, model_state)):
                    name = jax.tree_util.keystr(key[1:], simple=True, separator="/")
                    _check_finite(np.asarray(leaf), name, step)
            return params, model_state

        return StoredModel(step, metadata, read)
    adapter = file.name == peft.CONFIG
    if base is not None and not adapter:
        raise UserError(f"{file} is no run, and has no base", "Leave the base out")
    if average is not None:
        raise UserError(f"{file} is one file of weights, not several to average", "Leave the average out")
    if sha256:
        if file.name.endswith((SHARDS, INDEX)):
            raise UserError(f"{file} is an index of several files, which no one sha256 covers", "Check them one by one")
        remote.check_sha256(file.with_name(peft.WEIGHTS) if adapter else file, sha256)
    on_hub = address if address.startswith("hf://") else None
    return _published(*opened(file, base), overrides or {}, allow_nonfinite, on_hub)


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
    if path.startswith("hf://") or is_http(path) or path.endswith((".safetensors", ".npz", SHARDS)):
        return False
    try:
        return epath.Path(path).is_dir()
    except Exception as error:  # as in remote: each file system has errors of its own
        raise UserError(f"{path} cannot be reached: {str(error).splitlines()[0]}", "Check the address") from error


def _wrapper(names: Iterable[str]) -> str:
    """What wrappers of models put before every name, such as 'module._orig_mod.'; '' where nothing is."""
    names, wrapper = list(names), ""
    while found := next((w for w in _WRAPPERS if names and all(n.startswith(wrapper + w) for n in names)), ""):
        wrapper += found
    return wrapper


def _overridden(kwargs: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with others in their place; of a section, such as one network of several, those that are named."""
    both = {name: kwargs[name] for name, x in overrides.items() if isinstance(x, Mapping) and name in kwargs}
    inner = {name: _overridden(x, overrides[name]) for name, x in both.items() if isinstance(x, Mapping)}
    return {**kwargs, **overrides, **inner}


def _published(
    file: TensorFile, sidecar: Sidecar, overrides: Mapping[str, Any], allow_nonfinite: bool, address: str | None
) -> StoredModel:
    path = file.path
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
    kwargs = _overridden(published.kwargs, overrides)
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
            # On the hub, with their commits: of the file, and of what an adapter was trained beside.
            **({} if address is None else {"address": address}),
            **({"base": base} if (base := getattr(file, "base_address", None)) else {}),
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
