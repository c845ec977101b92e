"""What evaluators get: outputs by name, the same whatever batch and device an example is on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
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
