"""Batches as a pure function of (seed, step) for training, and each example exactly once for evaluation.

The order of rows is part of the promise: host i of n gets rows [i * B / n, (i + 1) * B / n) of the global batch, so
what a row holds does not depend on the number of hosts, worker processes or threads, nor on where a run was resumed.
"""

import functools
import itertools
import math
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self

import grain
import numpy as np
from jaxtyping import Shaped

from vit_jax.data.classes import ClassesOf
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.field import Context
from vit_jax.data.fields import Fields, build_fields
from vit_jax.data.order import order_of
from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.seeds import derived_seed
from vit_jax.data.source import Source
from vit_jax.data.workers import from_workers, read_options
from vit_jax.errors import UserError
from vit_jax.naming import nearest

Batch = dict[str, Shaped[np.ndarray, "b *rest"]]
Transform = Callable[..., dict[str, Any]]

# More examples than any run sees, and exact in a float64, in which Grain counts batches.
_ENDLESS = 2**50
# So many bad images in a row mean that something else is wrong than a few images.
_MAX_REPLACEMENTS = 100


class BatchIterator:
    """Batches in order, prepared ahead. Close it, or use it in a `with`, to end the threads and processes behind it."""

    def __init__(self, batches: grain.MapDataset, num_threads: int, num_workers: int = 0):
        if num_workers:
            batches = from_workers(batches, num_threads, num_workers)
        else:
            batches = iter(batches.to_iter_dataset(read_options(num_threads)))
        self._open = [batches]
        # Also closes what is forgotten: iterators that outlive the interpreter's modules fill stderr.
        self._close = weakref.finalize(self, _close_and_forget, self._open)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if not self._open:
            raise ValueError("these batches were closed")
        return next(self._open[0])

    def close(self) -> None:
        """Ends it. Closing twice is fine."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _close_and_forget(iterators: list[Any]) -> None:
    while iterators:
        iterators.pop().close()


class TrainPipeline:
    """Endless shuffled, augmented batches, indexed by step.

    Every epoch is a new permutation of the source; batches run across the border between epochs. A mixture is drawn
    from by weight, each of its parts in epochs of its own. An example's augmentation depends on the seed and on how
    many examples came before it, on nothing else.

    Args:
        source: where examples come from.
        transform: called with the decoded example and a generator of its own; with fields that lie in the image's plane
            also with how they move, see `vit_jax.data.placement`. None prepares examples as evaluation does.
        batch_size: of the global batch.
        seed: of order and augmentation, 0 or more.
        num_threads: threads that prepare whole batches ahead, in each process; 0 prepares them in the caller.
        num_workers: processes that do; 0 for none. Worth their start-up where one Python cannot keep up.
        on_corrupt: "replace" an unreadable image by the next one of the epoch and count it in "corrupt", or "fail".
        balance: every class equally often, however many examples it has: each once in every stretch of as many examples
            as there are classes. An image with several labels is an example of each.
        fields: what an example has; by default an image, a label, and whatever else the source gives.
        repeats: rows in a row that show the same example, each with an augmentation of its own (repeated
            augmentation: Hoffer et al., arXiv:1901.09335). A batch then holds batch_size / repeats examples; what does
            not fit in goes on in the next one.

    Raises:
        UserError: for an empty source or a value out of its range. While reading: for an unreadable image with "fail",
            or when one hundred in a row are unreadable.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform | None,
        batch_size: int,
        seed: int,
        num_threads: int = 1,
        num_workers: int = 0,
        on_corrupt: str = "replace",
        repeats: int = 1,
        balance: bool = False,
        fields: Fields | None = None,
    ):
        if on_corrupt not in ("replace", "fail"):
            raise UserError(f"There is no on_corrupt named {on_corrupt!r}", nearest(on_corrupt, ("replace", "fail")))
        _check_whole(batch_size=(batch_size, 1), seed=(seed, 0))
        _check_whole(num_threads=(num_threads, 0), num_workers=(num_workers, 0), repeats=(repeats, 1))
        _check_not_empty(source)
        self.source = source
        self.batch_size = batch_size
        self._num_threads = num_threads
        self._num_workers = num_workers
        fields = build_fields(None, Context()) if fields is None else fields
        self._elements = _TrainElements(source, seed, on_corrupt == "replace", repeats, balance, fields)
        shared = _SharedDraws(getattr(transform, "shared_draws", 0), batch_size, derived_seed(seed, 2))
        numbers = grain.MapDataset.range(_ENDLESS)
        if transform is None:
            self._examples = numbers.map(functools.partial(_train_plain, self._elements, fields))
        else:
            row = functools.partial(_train_row, self._elements, transform, fields, shared)
            self._examples = numbers.random_map(row, seed=derived_seed(seed, 1))

    def batch(self, step: int, slices: int = 1, index: int = 0) -> Batch:
        """Slice `index` of `slices` of the batch of one step.

        Returns:
            "image" uint8 [B / slices, h, w, 3], "label" int32 [B / slices], "corrupt" int32 [B / slices] (1 where the
            example stands in for one that could not be read), and whatever else source and transform supply.

        Raises:
            UserError: when the batch does not divide into `slices`.
        """
        return self._from(step, slices, index)[0]

    def iterate(self, start_step: int = 0, slices: int = 1, index: int = 0) -> BatchIterator:
        """`batch(start_step)`, `batch(start_step + 1)`, ... without end, prepared ahead. Close it after use."""
        return BatchIterator(self._from(start_step, slices, index), self._num_threads, self._num_workers)

    def example(self, element: int) -> dict[str, Any]:
        """What row `element % batch_size` of batch `element // batch_size` shows, decoded but not yet augmented."""
        return self._elements.readable(element)

    def _from(self, step: int, slices: int, index: int) -> grain.MapDataset:
        _check_whole(step=(step, 0))
        return _sliced(self._examples, self.batch_size, slices, index)[step:]


class EvalPipeline:
    """Each example exactly once, in the order of the source; every slice has the same number of batches.

    Args:
        source: where examples come from.
        transform: the preprocessing, or for augmented evaluation a transform, whose generator depends only on the seed
            and the example's index; None for what `fields` say.
        batch_size: of the global batch. The last one is filled up by starting over, with "valid" 0.
        seed: of the transform.
        num_threads: threads that prepare whole batches ahead; 0 prepares them in the caller.
        description: what the examples depend on, as text, so that results for them can be kept; None for no such text.
        fields: see `TrainPipeline`; an evaluation source may have some of them.

    Raises:
        UserError: for an empty source or a value out of its range. While reading: for any unreadable image, because
            leaving one out would change the score.
    """

    def __init__(
        self,
        source: Source,
        transform: Preprocess | Transform | None,
        batch_size: int,
        seed: int = 0,
        num_threads: int = 1,
        description: str | None = None,
        fields: Fields | None = None,
    ):
        _check_whole(batch_size=(batch_size, 1), seed=(seed, 0), num_threads=(num_threads, 0))
        _check_not_empty(source)
        self.source = source
        self.description = description
        self.batch_size = batch_size
        self._num_threads = num_threads
        self._rebuilt_with = functools.partial(
            EvalPipeline, transform=transform, batch_size=batch_size, seed=seed, num_threads=num_threads, fields=fields
        )
        preprocess = transform if isinstance(transform, Preprocess) else None
        if fields is None:
            fields = build_fields(None, Context(preprocess))
        self.fields = fields
        transform = None if preprocess else transform
        self._plain = transform is None
        elements = _EvalElements(source, len(self) * batch_size, fields, _takes_parts(transform))
        examples = grain.MapDataset.source(elements)
        if transform is None:
            self._examples = examples.map(functools.partial(_evaluated, fields))
        else:
            row = functools.partial(_transformed, transform, fields)
            self._examples = examples.random_map(row, seed=derived_seed(seed, 1))

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(len(self.source) / self.batch_size)

    def original(self, index: int) -> tuple[dict[str, Any], Placement]:
        """The example that batches give an `index`, read but not resized: its image uint8 [H, W, 3] as large as it is,
        and what lies on it in the same pixels; and where the preprocessing puts it in a batch.

        Raises:
            UserError: for an unreadable image.
            ValueError: for a pipeline that augments.
        """
        if not self._plain:
            raise ValueError("this pipeline augments its examples")
        example = _read(self.source, index, self.fields, False, False)
        return example, self.fields.placement(example)

    def with_classes(self, names: Sequence[str]) -> "EvalPipeline":
        """The same examples with labels that count the classes `names`, as a model that knows these answers.

        Raises:
            UserError: for a class that is not among them, see `vit_jax.data.classes.class_positions`.
        """
        if tuple(names) == tuple(self.source.label_names):
            return self
        return self._rebuilt_with(ClassesOf(self.source, names))

    def over(self, source: Source, fields: Fields, description: str | None) -> "EvalPipeline":
        """Other examples, prepared in the same way.

        Args:
            source: of the examples, such as one side of pairs of images and texts.
            fields: of an example.
            description: what the examples depend on; None for no such text.
        """
        return self._rebuilt_with(source, fields=fields, description=description)

    def iterate(self, slices: int = 1, index: int = 0) -> BatchIterator:
        """Slice `index` of `slices` of each batch. Close it after use.

        Returns:
            Batches of "image" uint8 [B / slices, h, w, 3], "label" int32, "valid" float32 (1 for an example, 0 for a
            filler) and "index" int32 (of the example in the source), each [B / slices].

        Raises:
            UserError: when the batch does not divide into `slices`.
        """
        return BatchIterator(_sliced(self._examples, self.batch_size, slices, index), self._num_threads)


class _TrainElements:
    """The source as an endless sequence in the order of training, each example `repeats` times in a row."""

    def __init__(self, source: Source, seed: int, replace: bool, repeats: int, balance: bool, fields: Fields):
        self._source = source
        self._fields = fields
        self._order = order_of(source, seed, balance)
        self._replace = replace
        self._repeats = repeats
        self._said = False
        self._choices = derived_seed(seed, 3) if fields.choosing else None

    def readable(
        self, element: int, then: Callable[[dict[str, Any]], Any] = lambda example: example, takes_parts: bool = False
    ) -> Any:
        """What `then` makes of an element, or of the first after it whose image can be read, by it or by `then`."""
        candidates = self._order.candidates(element // self._repeats)
        for tried, index in enumerate(itertools.islice(candidates, _MAX_REPLACEMENTS)):
            try:
                example = _read(self._source, index, self._fields, True, takes_parts, self._rng(element))
                return then(example | {"corrupt": int(tried > 0)})
            except UnreadableImage as error:
                if not self._replace:
                    raise
                if not self._said:  # once in each process; the metrics count the others
                    self._said = True
                    print(f"{error} Another is taken in its place; train/corrupt counts them.", file=sys.stderr)
                last = error
        raise UserError(f"{tried + 1} images in a row are unreadable. The last: {last.what}", last.what_to_do)

    def _rng(self, element: int) -> np.random.Generator | None:
        """What an element's fields choose by, apart from what its transform draws."""
        return None if self._choices is None else np.random.default_rng((self._choices, element))


class _SharedDraws:
    """Random numbers in [0, 1) in the field "shared_draws", the same for all of a global batch: for a transform that
    says how many it needs in an attribute of that name, and takes them out."""

    def __init__(self, count: int, batch_size: int, seed: int):
        self._count = count
        self._batch_size = batch_size
        self._seed = seed

    def of(self, element: int) -> dict[str, Any]:
        if not self._count:
            return {}
        rng = np.random.default_rng((self._seed, element // self._batch_size))
        return {"shared_draws": rng.random(self._count)}


class _EvalElements:
    """The source in order, starting over after its end with valid 0, up to `length` elements."""

    def __init__(self, source: Source, length: int, fields: Fields, takes_parts: bool):
        self._source = source
        self._fields = fields
        self._length = length
        self._takes_parts = takes_parts

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, element: int) -> dict[str, Any]:
        repeat, index = divmod(element, len(self._source))
        example = _read(self._source, index, self._fields, False, self._takes_parts)
        return example | {"valid": np.float32(repeat == 0), "index": index}


def _read(
    source: Source,
    index: int,
    fields: Fields,
    training: bool,
    takes_parts: bool,
    rng: np.random.Generator | None = None,
) -> dict[str, Any]:
    """The fields of one example, without its path."""
    raw = dict(source[index])
    where = raw.pop("path", None) or f"Example {index}"
    example = fields.read(raw, where, training, takes_parts, rng)
    label, classes = example.get("label"), len(source.label_names)
    if isinstance(label, int) and classes and not 0 <= label < classes:
        raise UserError(f"{where} has label {label}, but there are {classes} classes", "Number them from 0")
    return example


def _takes_parts(transform: Transform | None) -> bool:
    """Whether a transform decodes images itself, as far as it needs them: see `vit_jax.data.field.Field.open`."""
    return getattr(transform, "takes_parts", False)


def _train_plain(elements: _TrainElements, fields: Fields, element: int) -> dict[str, Any]:
    return elements.readable(element, functools.partial(_evaluated, fields))


def _train_row(
    elements: _TrainElements,
    transform: Transform,
    fields: Fields,
    shared: _SharedDraws,
    element: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    state = rng.bit_generator.state

    def row(example: dict[str, Any]) -> dict[str, Any]:
        if example["corrupt"]:  # the draws of the one in whose place it is, which may have found out while decoding
            rng.bit_generator.state = state
        return _transformed(transform, fields, example | shared.of(element), rng)

    return elements.readable(element, row, _takes_parts(transform))


def _evaluated(fields: Fields, example: dict[str, Any]) -> dict[str, Any]:
    return fields.batched(fields.evaluated(example))


def _transformed(
    transform: Transform, fields: Fields, example: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    moves = (fields.moves,) if fields.lie_on_image else ()
    return fields.batched(transform(example, rng, *moves))


def _stacked(examples: Sequence[dict[str, Any]]) -> Batch:
    """A batch of examples. Python's integers become int32."""
    batch = {}
    for key, first in examples[0].items():
        values = [example[key] for example in examples]
        batch[key] = np.array(values, np.int32) if isinstance(first, int) else np.stack(values)
    return batch


def _sliced(examples: grain.MapDataset, batch_size: int, slices: int, index: int) -> grain.MapDataset:
    """Slice `index` of each global batch. Batched first and sliced then, the slices put together are the batch."""
    if slices < 1 or batch_size % slices:
        raise UserError(f"A batch of {batch_size} does not divide into {slices} slices", "Change batch_size")
    if not 0 <= index < slices:
        raise ValueError(f"slice {index} of {slices}")
    return examples.batch(batch_size // slices, batch_fn=_stacked)[index::slices]


def _check_whole(**values: tuple[int, int]) -> None:
    for name, (value, low) in values.items():
        if not isinstance(value, int) or value < low:
            raise UserError(f"{name}={value!r} is out of range", f"Give a whole number from {low} up")


def _check_not_empty(source: Source) -> None:
    if len(source) == 0:
        raise UserError("The source has no examples", "Check the split and the path")
