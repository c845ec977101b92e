"""Figures of hidden tokens by hand, through the pipeline, whatever the batch and the devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.evaluators.masked_lm import MaskedLM
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.sharding import make_mesh

N, P, V = 53, 4, 11
rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 2, (N, P, V)).astype(np.float32)
# The commonest target is 3, and padding of P would be commoner still.
TARGETS = np.where(rng.random((N, P)) < 0.4, 3, rng.integers(0, V, (N, P))).astype(np.int32)
CHOSEN = (rng.random((N, P)) < 0.5).astype(np.float32)
TARGETS[CHOSEN == 0] = 7
NEXT, LABEL = rng.normal(size=(N, 2)).astype(np.float32), rng.integers(0, 2, N).astype(np.int32)


@dataclasses.dataclass
class Source:
    label_names: tuple[str, ...] = ("next", "random")

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"text": "ab", "label": LABEL[index]}


def measure(batch_size=16, devices=1, chosen=CHOSEN, **settings):
    kinds = {"text": {"name": "tokens", "length": 4}, "label": {"name": "classes"}}
    fields = build_fields(kinds, Context(None, Source.label_names))
    pipeline = EvalPipeline(Source(), None, batch_size, num_threads=0, fields=fields)

    def outputs(variables, batch, names, rng):
        given = {
            "masked_logits": LOGITS, "masked_targets": TARGETS, "masked_chosen": chosen, "masked_next_logits": NEXT,
        }  # fmt: skip
        return {name: jnp.asarray(given[name])[batch["index"]] for name in names}

    mesh = make_mesh({}, jax.devices()[:devices])
    found = Evaluation({"mlm": MaskedLM(pipeline, **settings)}, outputs, lambda batch: batch, mesh).run({})
    return {name.removeprefix("mlm/"): value for name, value in found.items()}


@pytest.mark.parametrize(("batch_size", "devices"), [(16, 1), (56, 8)])
def test_by_hand(batch_size, devices):
    found = measure(batch_size, devices)
    there = CHOSEN > 0
    exact = LOGITS.astype(np.float64)
    losses = np.log(np.exp(exact).sum(-1)) - np.take_along_axis(exact, TARGETS[..., None], axis=-1)[..., 0]
    assert found["tokens"] == there.sum() and found["examples"] == N
    assert found["accuracy"] == pytest.approx((LOGITS.argmax(-1) == TARGETS)[there].mean(), rel=1e-6)
    assert found["commonest_accuracy"] == pytest.approx((TARGETS[there] == 3).mean(), rel=1e-6)
    assert found["loss"] == pytest.approx(losses[there].mean(), rel=1e-6)
    assert found["next_accuracy"] == pytest.approx((NEXT.argmax(-1) == LABEL).mean(), rel=1e-6)
    losses = np.log(np.exp(NEXT.astype(np.float64)).sum(-1)) - NEXT[np.arange(N), LABEL]
    assert found["next_loss"] == pytest.approx(losses.mean(), rel=1e-6)


def test_without_the_next_sentence_and_without_a_hidden_token():
    assert "next_accuracy" not in measure(next_sentence=False)
    with pytest.raises(UserError, match="No token"):
        measure(chosen=0 * CHOSEN)
