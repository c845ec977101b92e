"""Samples of a task that generates: the one loop that draws them, and images by their number."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int, Shaped, UInt8

from vit_jax.checkpoints.encoded_conditions import EncodedConditions
from vit_jax.checkpoints.given_pictures import Pictures, check_pictures, pasted
from vit_jax.checkpoints.lost_samples import check_finite
from vit_jax.checkpoints.narrowing import narrowed
from vit_jax.checkpoints.source import say_once
from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.nn.batch_axis import batch_split_like
from vit_jax.ranges import check_seed
from vit_jax.tasks import Picture, Task, Variables, example_keys

Conditions = dict[str, Shaped[np.ndarray, "N ..."]]
# Of the rows that are drawn, by their positions, what they are asked to be.
Asked = Callable[[Int[np.ndarray, " B"]], Conditions]

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Samples:
    """Images that a task has drawn, on the host.

    Args:
        images: their pixels.
        conditions: what `task.sample` was given for each, such as "label" [N].
    """

    images: UInt8[np.ndarray, "N H W 3"]
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, some: slice) -> Self:
        return type(self)(self.images[some], {name: values[some] for name, values in self.conditions.items()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other; at least one."""
        conditions = {name: np.concatenate([part.conditions[name] for part in parts]) for name in parts[0].conditions}
        return cls(np.concatenate([part.images for part in parts]), conditions)


def settings_of(task: Task, given: Mapping[str, Any], such_as: str = "a generator") -> Any:
    """The task's `sampling` with these values, and its defaults for the others.

    Args:
        such_as: whose checkpoint would do, for the error.

    Raises:
        UserError: when the task generates nothing, has no such setting, or not with that value.
    """
    if task.sampling is None:
        raise UserError(f"The task '{name_of(task)}' generates nothing", f"Use a checkpoint of {such_as}")
    return construct(task.sampling, given, "sampling")


def asked(
    task: Task,
    numbers: Int[np.ndarray, " N"],
    settings: Any,
    prompts: str | Sequence[str],
    pictures: Pictures | None = None,
) -> Asked:
    """What the images of these numbers are asked to be, see `sample`.

    Raises:
        UserError: for a prompt that the task cannot follow, or none where it needs one.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts  # and not its letters
    conditions = task.conditions(prompts, settings) if prompts else {}
    for name, cut in conditions.items():
        if name == "negative_cut" and cut.any():
            say_once("The negative prompt is longer than the model reads: its end is cut")
        elif name.endswith("_cut") and (count := int(cut.sum())):
            say_once(f"{count} of {len(prompts)} prompts are longer than the model reads: their ends are cut")
    taken = [(name, values, len(prompts)) for name, values in conditions.items()]
    taken += [(name, values, len(values)) for name, values in (pictures or {}).items()]

    def rows(at: Int[np.ndarray, " B"]) -> Conditions:
        found = {} if prompts else task.unprompted(numbers[at])
        return {**found, **{name: values[numbers[at] % count] for name, values, count in taken}}

    return rows


def sample(
    task: Task,
    variables: Variables,
    numbers: Sequence[int] | Int[np.ndarray, " N"],
    *,
    settings: Any,
    prompts: str | Sequence[str] = (),
    pictures: Pictures | None = None,
    paste: bool = False,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    rows: NamedSharding | None = None,
) -> Iterator[Samples]:
    """The images of these numbers in their order, a batch at a time.

    Image i is a function of the parameters, the settings, the seed, i and what it is asked to be, which is a function
    of i: whatever else is drawn, in batches of any size, and on any number of devices. So a part may be drawn now and
    the others later.

    Args:
        settings: see `settings_of`.
        prompts: what images are asked to be, image i the prompt i modulo their count, or all one text; by default what
            `task.unprompted` says, such as all classes in turn.
        pictures: what they go by beside that, as `vit_jax.checkpoints.given_pictures.read_pictures` gives it: arrays
            [P, H, W, C] by name, image i the picture i modulo their count.
        paste: where a mask leaves an image as it is, samples get its own pixels.
        batch_size: images at a time; the last batch is filled up, so that all are one program.
        rows: how examples are split over devices; None for one device. Variables that are not there are put there, as
            far as they are needed.

    Raises:
        UserError: when the task draws no images, or cannot follow a prompt; and for pictures that do not fit, see
            `vit_jax.checkpoints.given_pictures.check_pictures`.
    """
    numbers = np.asarray(numbers)
    check_pictures(task, settings, pictures or {})
    rows_asked = asked(task, numbers, settings, prompts, pictures)
    if paste and "mask" not in (pictures or {}):
        raise UserError("Pixels can be pasted back where a mask leaves them", "Give an image and a mask")
    for drawn, conditions in draw(task, variables, settings, rows_asked, numbers, seed, batch_size, rows):
        drawn = pasted(drawn, conditions) if paste else drawn
        yield Samples(_pictures(task, drawn, conditions), conditions)


def check_sample(
    task: Task,
    variables: Variables,
    settings: Mapping[str, Any],
    rows: NamedSharding | None = None,
    pictures: Collection[str] = (),
) -> None:
    """Finds what `sample` will lack; traces, and computes nothing.

    Args:
        variables: shapes and types are enough.
        pictures: names of those that it will be given.

    Raises:
        UserError: see `settings_of`; or the task draws something else than images, needs another picture, or takes no
            such one.
    """
    chosen = settings_of(task, settings, "a generator of images")
    known = task.pictures(chosen)
    # Who gives one gives it once, of however many controls there are.
    made_up = {
        name: _made_up(dataclasses.replace(known[name], count=1)) if name in known else None for name in pictures
    }
    check_pictures(task, chosen, made_up)
    found = drawing(task, chosen, rows).eval_shape(variables, *shapes_of(task, chosen, 1, rows, pictures=pictures))
    if found.ndim != 4 or found.shape[-1] != 3 or not jnp.issubdtype(found.dtype, jnp.floating):
        raise _no_images(task)


def shapes_of(
    task: Task,
    settings: Any,
    batch_size: int,
    rows: NamedSharding | None = None,
    prompts: Sequence[str] = (),
    pictures: Collection[str] = (),
) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """What `drawing` takes beside the variables, of at least so many images; of pictures those of these names, and all
    that are needed."""
    count, known = _filled(batch_size, rows), task.pictures(settings)
    some = {name: _made_up(each) for name, each in known.items() if each.needed or name in pictures}
    batch = asked(task, np.arange(count), settings, prompts, some)(np.arange(count))
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in batch.items()}
    return shapes, jax.ShapeDtypeStruct((count,), jnp.int32, sharding=rows), jax.ShapeDtypeStruct((), jnp.uint32)


def draw(
    task: Task,
    variables: Variables,
    settings: Any,
    asked_of: Asked,
    numbers: Int[np.ndarray, " N"],
    seed: int,
    batch_size: int,
    rows: NamedSharding | None = None,
) -> Iterator[tuple[Shaped[np.ndarray, "B ..."], Conditions]]:
    """What `task.sample` gives for so many rows, a batch at a time, and what each was asked to be.

    The device is one batch ahead of who takes them.

    Args:
        asked_of: what rows are asked to be.
        numbers: of each row, from which its key is folded.
        others: see `sample`.

    Raises:
        UserError: for a sample that is not made of numbers.
    """
    check_seed(seed)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}", "Ask for at least 1")

    def fetched(drawn: Array, given: dict[str, Array], conditions: Conditions, numbers: Int[np.ndarray, " B"]) -> Any:
        values = np.asarray(jax.device_get(drawn))[: len(numbers)]
        check_finite(task, ready, settings, values, given, numbers, seed)
        return values, conditions

    count = len(numbers)
    batch_size = _filled(min(batch_size, count), rows)
    program, pending = drawing(task, settings, rows), None
    everywhere = None if rows is None else NamedSharding(rows.mesh, PartitionSpec())
    place = functools.partial(_on, sharding=everywhere)
    encoded, ready = EncodedConditions(task, variables, place), None
    for start in range(0, count, batch_size or 1):
        at = np.arange(start, start + batch_size).clip(max=count - 1)
        conditions = asked_of(at)
        placed = {name: _placed(encoded(name, values), rows) for name, values in conditions.items()}
        given = placed, _placed(numbers[at].astype(np.int32), rows), np.uint32(seed)
        if ready is None:
            ready = narrowed(variables, program.trace(variables, *given), place)
        running = program(ready, *given)
        if pending is not None:
            yield fetched(*pending)
        kept = min(batch_size, count - start)
        pending = running, placed, {name: values[:kept] for name, values in conditions.items()}, numbers[at[:kept]]
    if pending is not None:
        yield fetched(*pending)


def name_of(task: Task) -> str:
    """As configs call it."""
    return type(task).__module__.rpartition(".")[2]


@functools.lru_cache(maxsize=8)
def drawing(task: Task, settings: Any, rows: NamedSharding | None = None) -> Callable[..., Array]:
    """`task.sample` of (variables, conditions, numbers [B], seed), compiled once however often it is asked."""

    def drawn(
        variables: Variables, conditions: Mapping[str, Array], numbers: Int[Array, " B"], seed: Array
    ) -> Shaped[Array, "B ..."]:
        keys = example_keys(seed, {"index": numbers})
        with batch_split_like(rows) if rows is not None else contextlib.nullcontext():
            return task.sample(variables, conditions, keys, settings)

    whole = None if rows is None else NamedSharding(rows.mesh, PartitionSpec())
    return jax.jit(drawn, out_shardings=whole)


def _made_up(picture: Picture) -> Float32[np.ndarray, "1 H W C"]:
    """One of more than one value."""
    return np.linspace(0, 1, math.prod(picture.shape), dtype=np.float32).reshape(1, *picture.shape)


def _filled(batch_size: int, rows: NamedSharding | None) -> int:
    """A batch of at least so many, of which all devices get as many."""
    if rows is None:
        return batch_size
    axes = rows.spec[0]
    ways = math.prod(rows.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))
    return -(-batch_size // ways) * ways


def _placed(values: Shaped[np.ndarray, "..."], sharding: NamedSharding | None) -> Array:
    """What every process has in full, as it lies on the devices."""
    values = np.asarray(values)
    if sharding is None:
        return jnp.asarray(values)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _on(leaf: Any, sharding: NamedSharding | None) -> Array:
    """A variable on all these devices, which may be there already, in whole or in parts."""
    if isinstance(leaf, jax.Array) and (sharding is None or leaf.sharding.device_set == sharding.device_set):
        return leaf
    if sharding is not None and sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)  # from device to device, not by way of the host
    return _placed(leaf, sharding)


def _pictures(task: Task, drawn: Shaped[np.ndarray, "B ..."], conditions: Conditions) -> UInt8[np.ndarray, "B H W 3"]:
    shown = task.shown(drawn, conditions)
    if not all(isinstance(each, np.ndarray) and each.ndim == 3 and each.dtype == np.uint8 for each in shown):
        raise _no_images(task)
    return np.stack(shown)


def _no_images(task: Task) -> UserError:
    return UserError(
        f"What the task '{name_of(task)}' draws are no images", "Use 'vit_jax generate', or a generator of images"
    )
