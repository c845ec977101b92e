"""From the `data` section of a config to pipelines: where train and evaluate get their batches."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from vit_jax.data.mix import Mix
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.source import Source
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.errors import UserError
from vit_jax.naming import build_named, construct
from vit_jax.ranges import Count, Natural

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The `data` section.

    Args:
        image_size: [height, width] in pixels of what the model sees; a single number means a square.
        train: the training source, `name` of a module in `vit_jax.data.sources` and its arguments.
        transform: the training augmentation, `name` of a module in `vit_jax.data.transforms` and its arguments.
        mix: mixup, cutmix and erasing of whole training batches on the device, see `vit_jax.data.mix.Mix`.
        eval: the evaluation source; None for a run without one.
        preprocess: resizing and pixel statistics, see `vit_jax.data.preprocess.Preprocess`.
        eval_batch_size: None for the batch size of training.
        num_threads: threads that read and decode.
        num_workers: processes that read and decode, each with that many threads; 0 for this process alone. None for
            as many as the cores of this machine can feed, see `workers_for`; batches do not depend on it.
        on_corrupt: 'replace' or 'fail' on an unreadable training image; the share replaced is logged as train/corrupt.
        repeats: rows in a row that show the same training example, each augmented anew.
        balance: train on every class equally often, however many examples it has. An epoch is still as many examples
            as the source has.
    """

    image_size: tuple[int, int]
    train: Mapping[str, Any]
    transform: Mapping[str, Any]
    mix: Mapping[str, Any] | None = dataclasses.field(default_factory=dict)
    eval: Mapping[str, Any] | None = None
    preprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    eval_batch_size: Count | None = None
    num_threads: Natural = 2
    num_workers: Natural | None = None
    on_corrupt: str = "replace"
    repeats: Count = 1
    balance: bool = False

    @property
    def preprocessing(self) -> Preprocess:
        return construct(Preprocess, self.preprocess, "config.data.preprocess", image_size=self.image_size)

    @property
    def mixing(self) -> Mix:
        return construct(Mix, self.mix or {}, "config.data.mix")

    def prepare(self, num_classes: int) -> Callable[[Batch, PRNGKeyArray], Batch]:
        """What the device does to a training batch before the loss: normalising and mixing."""
        preprocess, mix = self.preprocessing, self.mixing
        return lambda batch, rng: mix(normalize_images(preprocess, batch), rng, num_classes)

    def prepare_eval(self) -> Callable[[Batch], Batch]:
        """What the device does to an evaluation batch before the model: normalising."""
        return functools.partial(normalize_images, self.preprocessing)

    def train_source(self) -> Source:
        return build_named("source", self.train, "config.data.train")

    def train_pipeline(self, source: Source, batch_size: int, seed: int) -> TrainPipeline:
        transform = build_named("transform", self.transform, "config.data.transform", image_size=self.image_size)
        return TrainPipeline(
            source,
            transform,
            batch_size=batch_size,
            seed=seed,
            num_threads=self.num_threads,
            num_workers=workers_for(source) if self.num_workers is None else self.num_workers,
            on_corrupt=self.on_corrupt,
            repeats=self.repeats,
            balance=self.balance,
        )

    def eval_pipeline(
        self,
        batch_size: int,
        where: str,
        source: Mapping[str, Any] | None = None,
        transform: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> EvalPipeline:
        """A pipeline that gives every example once.

        Args:
            where: the section that asks for it, for errors.
            source: another source than `data.eval`.
            transform: an augmentation instead of plain preprocessing, drawn from `seed` and the example's index.
        """
        if source is None and self.eval is None:
            raise UserError("There is no evaluation data", f"Set config.data.eval, or {where}.source")
        section = source or self.eval
        source = build_named("source", section, f"{where}.source" if source else "config.data.eval")
        # What the examples depend on, so that results for them can be kept.
        description = [section, transform, seed if transform else None, self.preprocessing.to_json(), len(source)]
        if transform is not None:
            transform = build_named("transform", transform, f"{where}.transform", image_size=self.image_size)
        return EvalPipeline(
            source, transform or self.preprocessing, batch_size=self.eval_batch_size or batch_size, seed=seed,
            num_threads=self.num_threads, description=json.dumps(description, sort_keys=True, default=str),
        )  # fmt: skip


def workers_for(source: Source) -> int:
    """How many processes decode a training source where the config leaves it open.

    One for every two cores that this process may use, since each has two threads, and at most 16. None for images
    that lie decoded in memory, nor where there are fewer than four cores: threads keep those busy, without the start
    and the memory of processes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if isinstance(source, ArraySource) or cores < 4 else min(16, cores // 2)


def build_inputs(section: Mapping[str, Any]) -> Inputs:
    """Checks the `data` section of a config."""
    size = section.get("image_size")
    size = [size] if isinstance(size, int) else size
    size = tuple(size) if isinstance(size, (list, tuple)) else ()
    size = size * 2 if len(size) == 1 else size  # one number for a square, as `--config.data.image_size=32` gives it
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise UserError(f"config.data.image_size is {section.get('image_size')!r}", "Give [height, width] in pixels")
    return construct(Inputs, {**section, "image_size": size}, "config.data")


def normalize_images(preprocess: Preprocess, batch: Mapping[str, Array]) -> dict[str, Array]:
    """The batch with uint8 images, as the host sends them, turned into the float32 images that a model takes."""
    return {**batch, "image": preprocess.normalize(batch["image"])}
