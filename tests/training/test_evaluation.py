"""What evaluators get: outputs by name, the same whatever batch and device an example is on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import Fields, tokens
from vit_jax.data.fields.classes import Classes
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.tasks import chosen, example_keys
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.sharding import make_mesh

EXAMPLES = 24
IMAGES = np.random.default_rng(0).integers(0, 255, (EXAMPLES, 4, 4, 3), np.uint8)


def pipeline(batch_size):
    source = ArraySource(IMAGES, np.zeros(EXAMPLES, np.int32), ("one",))
    return EvalPipeline(source, Preprocess((4, 4)), batch_size, num_threads=0)


@dataclasses.dataclass(frozen=True)
class Kept:
    """The outputs of its names of each example."""

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    names: tuple[str, ...]
    kept: dict = dataclasses.field(hash=False, default_factory=dict)

    def measure(self, apply, batch):
        return {**apply(batch, self.names), "valid": batch["valid"]}

    def metrics(self, run):
        parts = list(run(self.pipeline))
        self.kept.update({k: np.concatenate([p[k][p["valid"] > 0] for p in parts]) for k in parts[0]})
        return {"examples": len(self.kept["valid"])}


def outputs(variables, batch, names, rng):
    def fail():
        raise AssertionError("nobody asked for samples")

    samples = lambda: jax.vmap(lambda key: jax.random.normal(key, (3,)))(rng)  # noqa: E731
    loss = lambda: jnp.square(batch["image"] / 255.0).mean((1, 2, 3))  # noqa: E731
    return chosen(
        names, {"loss": loss, "samples": samples if variables["samples"] else fail, "missing": missing(batch)}
    )


def missing(batch):
    return lambda: batch["depth"]


def kept(names, batch_size=16, devices=1, samples=True, seed=0):
    evaluator, mesh = Kept(pipeline(batch_size), names), make_mesh({}, jax.devices()[:devices])
    of = lambda variables, *rest: outputs({"samples": samples}, *rest)  # noqa: E731
    evaluation = Evaluation({"val": evaluator}, of, lambda batch: batch, mesh, seed=seed)
    evaluation.check({})
    evaluation.run({})
    return evaluator.kept


def test_nobody_traces_what_nobody_named():
    wanted = np.square(IMAGES / 255.0).mean((1, 2, 3))
    np.testing.assert_allclose(kept(("loss",), samples=False)["loss"], wanted, rtol=1e-5)
    with pytest.raises(AssertionError, match="nobody asked"):
        kept(("loss", "samples"), samples=False)


def test_samples_depend_on_seed_and_example_alone():
    first, other = kept(("samples",))["samples"], kept(("samples",), batch_size=40, devices=8)["samples"]
    assert first.shape == (EXAMPLES, 3) and len(np.unique(first)) == first.size
    np.testing.assert_array_equal(first, other)
    assert not np.isin(kept(("samples",), seed=1)["samples"], first).any()
    # A batch that an evaluator makes itself has no index.
    rows = example_keys(0, {"tokens": np.zeros((2, 5))})
    np.testing.assert_array_equal(jax.vmap(lambda key: jax.random.normal(key, (3,)))(rows), first[:2])


def test_what_is_not_there_is_one_sentence():
    with pytest.raises(UserError, match="'val' would fail: This task does not give 'sampels'. It gives loss, miss"):
        kept(("sampels",))
    with pytest.raises(
        UserError, match="'val' would fail: There is no field 'depth' in this data, which has image, ind"
    ):
        kept(("missing",))


@dataclasses.dataclass(frozen=True)
class TwoSides:
    """Compares two sets by an output each."""

    left: EvalPipeline = dataclasses.field(hash=False)
    right: EvalPipeline = dataclasses.field(hash=False)
    features: dict = dataclasses.field(hash=False)

    def metrics(self, run):
        (left, _), (right, numbers) = (run.features(getattr(self, name), of) for name, of in self.features.items())
        return {"left": left.sum(), "right": right.sum(), "last": numbers[-1]}


class Numbers:
    label_names = ()

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"text": "a" * int(index), "label": int(index)}


def two_sides(**features):
    """Images, and texts alone that are read as those of pairs, of their own number in batches of the same size."""
    text = tokens.build(data=Context(), length=8)
    data = pipeline(16)
    texts = data.over(Numbers(), Fields({"text": text, "label": Classes()}), "five texts")
    assert (texts.description, len(texts), len(data)) == ("five texts", 1, 2)
    images, lengths = (lambda b: b["image"].mean((1, 2, 3))), (lambda b: b["text_mask"].sum(1))
    of = {"image_side": images, "text_side": lengths}

    def outputs(variables, batch, names, rng):
        return chosen(names, {name: lambda name=name: of[name](batch) for name in of})

    evaluator = TwoSides(data, texts, features)
    return Evaluation({"val": evaluator}, outputs, lambda batch: batch, make_mesh({}, jax.devices()[:1]))


def test_an_evaluator_of_two_sides_asks_each_for_its_own():
    evaluation = two_sides(left="image_side", right="text_side")
    evaluation.check({})
    found = evaluation.run({})
    assert found["val/right"] == 2 + 3 + 4 + 5 + 6 and found["val/last"] == 4  # with their starts and ends
    assert found["val/left"] == pytest.approx(IMAGES.mean((1, 2, 3)).sum(), rel=1e-5)
    with pytest.raises(UserError, match="'val' would fail: There is no field 'image' in this data"):
        two_sides(left="image_side", right="image_side").check({})
    with pytest.raises(UserError, match="'val' would fail: This task does not give 'sides'"):
        two_sides(left="image_side", right="sides").check({})
