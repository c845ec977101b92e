"""From the `data` section of a config to pipelines: where train and evaluate get their batches."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from vit_jax.data.field import Context
from vit_jax.data.fields import Fields, build_fields
from vit_jax.data.fold import Fold
from vit_jax.data.mix import Mix
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline, Transform
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.naming import build_named, construct
from vit_jax.ranges import Count, Natural

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The `data` section.

    Args:
        train: the training source, `name` of a module in `vit_jax.data.sources` and its arguments.
        image_size: [height, width] in pixels of what the model sees; a single number means a square. None for data
            without images.
        transform: the training augmentation, `name` of a module in `vit_jax.data.transforms` and its arguments. None
            for data without images.
        fields: the kind of each field of an example, `name` of a module in `vit_jax.data.fields` and its arguments, by
            the field's name in batches. Left out, they are "image" and "label".
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
        fold: k-fold cross-validation: 'i/k' leaves the i-th of k parts of `train` out, and evaluation takes that part
            where it would take `eval`, see `vit_jax.data.fold`. None for all of `train`.
    """

    train: Mapping[str, Any]
    image_size: tuple[int, int] | None = None
    transform: Mapping[str, Any] | None = None
    fields: Mapping[str, Any] | None = None
    mix: Mapping[str, Any] | None = dataclasses.field(default_factory=dict)
    eval: Mapping[str, Any] | None = None
    preprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    eval_batch_size: Count | None = None
    num_threads: Natural = 2
    num_workers: Natural | None = None
    on_corrupt: str = "replace"
    repeats: Count = 1
    balance: bool = False
    fold: str | None = None

    def __post_init__(self):
        if self.left_out and self.eval is not None:
            raise UserError(
                f"config.data.fold={self.fold} evaluates on what it leaves out of config.data.train, and"
                " config.data.eval names another set",
                "Set config.data.eval=none; or config.data.fold=none, to train or evaluate without folds",
            )

    @functools.cached_property
    def left_out(self) -> Fold | None:
        """What training leaves out for evaluation."""
        return None if self.fold is None else Fold.parse(self.fold)

    @property
    def preprocessing(self) -> Preprocess | None:
        """None for data without images."""
        if self.image_size is None:
            return None
        return construct(Preprocess, self.preprocess, "config.data.preprocess", image_size=self.image_size)

    @property
    def mixing(self) -> Mix:
        return construct(Mix, self.mix or {}, "config.data.mix")

    def kinds(self, label_names: Sequence[str] = ()) -> Fields:
        """The fields of an example; `label_names` are the classes of "label"."""
        return build_fields(self.fields, Context(self.preprocessing, tuple(label_names)))

    def on_device(self, num_classes: int) -> Callable[[Batch, PRNGKeyArray], Batch]:
        """What the device does to a training batch before the loss: normalising and mixing.

        Raises:
            UserError: for mixup or cutmix where other fields lie in the plane of the image.
        """
        kinds, mix = self.kinds(), self.mixing
        if mix.mixes_labels and kinds.lie_on_image:
            raise UserError(
                f"Mixup and cutmix mix images, and {kinds.lie_on_image[0]!r} would no longer fit them",
                "Remove mixup and cutmix from config.data.mix",
            )
        if (mix.mixes_labels or mix.erase) and "image" not in kinds:
            raise UserError("There is no image to mix or erase", "Remove config.data.mix")
        return lambda batch, rng: mix(kinds.on_device(batch), rng, num_classes)

    def on_device_eval(self) -> Callable[[Batch], Batch]:
        """What the device does to an evaluation batch before the model: normalising."""
        return self.kinds().on_device

    def train_source(self) -> Source:
        """The training source, arranged as the fields read it."""
        source = build_named("source", self.train, "config.data.train")
        self.kinds().check_parts(source)
        return self.kinds().arranged(self.left_out.training(source) if self.left_out else source)

    def augmentation(self, kinds: Fields) -> Transform | None:
        """Training's transform, which moves all fields that lie in the image's plane; None without images."""
        if self.transform is None:
            return None
        transform = build_named("transform", self.transform, "config.data.transform", image_size=self.image_size)
        kinds.check_placed(transform, "config.data.transform")
        return transform

    def train_pipeline(self, source: Source, batch_size: int, seed: int, stored: Fields | None = None) -> TrainPipeline:
        """Training's batches.

        Args:
            stored: the fields of a source that gives what was computed of its images in their place.
        """
        kinds = self.kinds(source.label_names) if stored is None else stored
        return TrainPipeline(
            source,
            self.augmentation(kinds) if stored is None else None,
            batch_size=batch_size,
            seed=seed,
            num_threads=self.num_threads,
            num_workers=workers_for(source) if self.num_workers is None else self.num_workers,
            on_corrupt=self.on_corrupt,
            repeats=self.repeats,
            balance=self.balance,
            fields=kinds,
        )

    def in_order(self, source: Source, batch_size: int) -> EvalPipeline:
        """Each example of the training source once, as training shows it.

        Raises:
            UserError: where training shows an example differently each time.
        """
        kinds, mix, preprocess = self.kinds(source.label_names), self.mixing, self.preprocessing
        transform = self.augmentation(kinds)
        if transform is not None and getattr(transform, "random", True):
            raise UserError(
                f"The transform '{self.transform['name']}' shows an image differently each time, so that nothing can be"
                " computed of it once",
                "Remove config.precompute, or what is random: 'supervised' with crop='none' and flip=False",
            )
        if mix.mixes_labels or mix.erase:
            raise UserError(
                "config.data.mix changes an image differently each time, so that nothing can be computed of it once",
                "Remove config.precompute or config.data.mix",
            )
        described = [self.train, self.transform, preprocess and preprocess.to_json(), len(source), kinds.to_json()]
        described += [f"all but fold {self.fold}"] if self.fold else []
        return EvalPipeline(
            source, transform, batch_size=self.eval_batch_size or batch_size, num_threads=self.num_threads,
            description=json.dumps(described, sort_keys=True, default=str), fields=kinds,
        )  # fmt: skip

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
            source: another source than `data.eval`, or than the part that `data.fold` leaves out.
            transform: an augmentation instead of plain preprocessing, drawn from `seed` and the example's index.
        """
        if source is None and self.left_out:
            section = {"fold": self.fold, "of": self.train}
            source = self.left_out.left_out(build_named("source", self.train, "config.data.train"))
        elif source is None and self.eval is None:
            raise UserError("There is no evaluation data", f"Set config.data.eval, or {where}.source")
        else:
            section = source or self.eval
            source = build_named("source", section, f"{where}.source" if source else "config.data.eval")
        self.kinds().check_parts(source)
        if not source.label_names:  # a text of a class is an example by itself, as probes and k-NN take it
            source = self.kinds().arranged(source)
        # What the examples depend on, so that results for them can be kept.
        kinds, preprocess = self.kinds(source.label_names), self.preprocessing
        description = [
            section,
            transform,
            seed if transform else None,
            preprocess and preprocess.to_json(),
            len(source),
        ]
        if kinds.explicit:
            description.append(kinds.to_json())
        if transform is not None:
            transform = build_named("transform", transform, f"{where}.transform", image_size=self.image_size)
            kinds.check_placed(transform, f"{where}.transform")
        return EvalPipeline(
            source, transform, batch_size=self.eval_batch_size or batch_size, seed=seed, num_threads=self.num_threads,
            description=json.dumps(description, sort_keys=True, default=str), fields=kinds,
        )  # fmt: skip


def workers_for(source: Source) -> int:
    """How many processes decode a training source where the config leaves it open.

    One for every two cores that this process may use, since each has two threads, and at most 16. None for images
    or tokens that lie ready in memory, nor where there are fewer than four cores: threads keep those busy, without the
    start and the memory of processes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if getattr(source, "in_memory", False) or cores < 4 else min(16, cores // 2)


def build_inputs(section: Mapping[str, Any]) -> Inputs:
    """Checks the `data` section of a config."""
    fields, size = section.get("fields"), section.get("image_size")
    if isinstance(fields, Mapping) and "image" not in fields:
        # Without an image nothing is resized or augmented; a text has a length of its own.
        if section.get("transform") is not None:
            raise UserError("There is no field 'image' to transform", "Remove config.data.transform, or add the field")
        if size is None:
            return construct(Inputs, section, "config.data")
    size = [size] if isinstance(size, int) else size
    size = tuple(size) if isinstance(size, (list, tuple)) else ()
    size = size * 2 if len(size) == 1 else size  # one number for a square, as `--config.data.image_size=32` gives it
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise UserError(f"config.data.image_size is {section.get('image_size')!r}", "Give [height, width] in pixels")
    of_images = not isinstance(fields, Mapping) or "image" in fields
    if of_images and section.get("transform") is None and section.get("train") is not None:
        raise UserError(
            "The key 'config.data.transform' is missing", "Name what training does to an image, such as 'supervised'"
        )
    return construct(Inputs, {**section, "image_size": size}, "config.data")
