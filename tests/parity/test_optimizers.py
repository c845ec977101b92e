"""Three steps of each optimizer beside those of the libraries that people know it from, in float64."""

import jax
import pytest
import torch
from schedulefree import AdamWScheduleFree
from timm.optim import Lamb, Lion

from tests.three_steps import GRADIENTS, PARAMS, assert_same, trained


def by_torch(make, decay, rates=(1.0, 1.0), schedule=(1.0, 1.0, 1.0)):
    """The same of a torch optimizer with two groups, what is decayed and what is not.

    Args:
        make: from parameter groups to the optimizer.
        rates: of "block" and of "head", as factors of 0.1.
        schedule: further factors, of each step.
    """
    leaves = jax.tree.map(lambda x: torch.nn.Parameter(torch.tensor(x)), PARAMS)
    groups = [
        {"params": [leaf], "lr": 0.1 * factor, "weight_decay": decay if name == "kernel" else 0.0}
        for part, factor in zip(PARAMS, rates, strict=True) for name, leaf in leaves[part].items()
    ]  # fmt: skip
    optimizer, of_groups = make(groups), [group["lr"] for group in groups]
    averages = isinstance(optimizer, AdamWScheduleFree)
    if averages:
        optimizer.train()
    for factor, gradient in zip(schedule, GRADIENTS, strict=True):
        for group, rate in zip(optimizer.param_groups, of_groups, strict=True):
            group["lr"] = factor * rate
        jax.tree.map(lambda leaf, g: setattr(leaf, "grad", torch.tensor(g)), leaves, gradient)
        optimizer.step()
    if averages:
        optimizer.eval()
    return jax.tree.map(lambda leaf: leaf.detach().numpy(), leaves)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("name", ["lamb", "lion"])
def test_three_steps_are_those_of_timm(name, layer_decay):
    section = {"name": name, "learning_rate": 0.1, "weight_decay": 0.3, "b1": 0.9, "b2": 0.95}
    section |= {"clip_norm": 1.0} if name == "lamb" else {}  # timm's has it by default
    section |= {} if layer_decay is None else {"layer_decay": layer_decay}
    make = {"lamb": Lamb, "lion": Lion}[name]
    expected = by_torch(lambda groups: make(groups, betas=(0.9, 0.95)), 0.3, (layer_decay or 1.0, 1.0))
    assert_same(trained(section), expected)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("warmup", [0, 2])
def test_schedule_free_steps_are_those_of_its_authors(warmup, layer_decay):
    """Our parameters are what theirs are in evaluation."""
    section = {"name": "schedule_free_adamw", "learning_rate": 0.1, "weight_decay": 0.3, "b1": 0.8, "b2": 0.95}
    section |= {"schedule": {"name": "constant", "warmup_steps": warmup}}
    section |= {} if layer_decay is None else {"layer_decay": layer_decay}
    expected = by_torch(
        lambda groups: AdamWScheduleFree(groups, betas=(0.8, 0.95)), 0.3, (layer_decay or 1.0, 1.0),
        (0.0, 0.5, 1.0) if warmup else (1.0, 1.0, 1.0),
    )  # fmt: skip
    assert_same(trained(section), expected)
