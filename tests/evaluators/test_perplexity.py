"""Perplexity and bits per byte by hand, through the pipeline: every token once, whatever the batch and the devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.evaluators.perplexity import Perplexity
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.sharding import make_mesh

N, T = 37, 5
RNG = np.random.default_rng(0)
LOSSES = RNG.gamma(2.0, 1.0, (N, T)).astype(np.float32)
WEIGHTS = (RNG.random((N, T)) < 0.7).astype(np.float32)
BYTES = RNG.integers(0, 6, (N, T)).astype(np.float32)


@dataclasses.dataclass
class Source:
    label_names: tuple[str, ...] = ()

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"text": "ab"}


def measure(batch_size, devices, token_bytes):
    fields = build_fields({"text": {"name": "tokens", "length": 4}}, Context(None, ()))
    pipeline = EvalPipeline(Source(), None, batch_size, num_threads=0, fields=fields)

    def outputs(variables, batch, names, rng):
        given = {"token_losses": LOSSES, "token_weights": WEIGHTS, "token_bytes": token_bytes}
        return {name: jnp.asarray(given[name])[batch["index"]] for name in names}

    mesh = make_mesh({}, jax.devices()[:devices])
    evaluation = Evaluation({"val": Perplexity(pipeline)}, outputs, lambda batch: batch, mesh)
    return {name.removeprefix("val/"): value for name, value in evaluation.run({}).items()}


@pytest.mark.parametrize(("batch_size", "devices"), [(16, 1), (40, 8)])
def test_by_hand(batch_size, devices):
    found = measure(batch_size, devices, BYTES)
    total = (LOSSES.astype(np.float64) * WEIGHTS).sum()
    assert found["tokens"] == WEIGHTS.sum()
    assert found["loss"] == pytest.approx(total / WEIGHTS.sum(), rel=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(total / WEIGHTS.sum()), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(total / np.log(2) / (BYTES * WEIGHTS).sum(), rel=1e-6)


def test_a_tokenizer_that_does_not_know_bytes():
    assert set(measure(16, 1, 0 * BYTES)) == {"loss", "perplexity", "tokens"}
