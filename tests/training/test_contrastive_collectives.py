"""What the steps of the contrastive tasks send between devices besides the sums of gradients."""

import jax
import pytest

from tests.tiny_contrastive import RESNET, VIT, contrastive_config
from vit_jax.planning.collectives import collectives
from vit_jax.training.experiment import build_experiment
from vit_jax.training.program import build_program
from vit_jax.training.sharding import make_mesh

PROJECTIONS = 2 * 8 * 8 * 4  # two views of eight images, eight numbers each, float32


@pytest.mark.parametrize(
    ("task", "model", "extra"),
    [
        # Every projection meets those of the whole batch. SimCLR puts its two views one after the other, which moves
        # some of them to other devices; MoCo v3 compares one view with the other and leaves them where they are.
        ("simclr", VIT, {"all-gather", "collective-permute", "all-to-all"}),
        pytest.param("simclr", RESNET, {"all-gather", "collective-permute", "all-to-all"}, marks=pytest.mark.slow),
        ("moco_v3", VIT, {"all-gather"}),
    ],
)
@pytest.mark.long
def test_only_projections_are_sent(task, model, extra):
    """Never images, features or parameters. Batch norm's statistics are sums like those of the gradients."""
    experiment, mesh = build_experiment(contrastive_config(task, model)), make_mesh({}, jax.devices())
    row = experiment.pipeline.batch(0, 8, 0)
    raw = {name: jax.ShapeDtypeStruct((8, *value.shape[1:]), value.dtype) for name, value in row.items()}
    program = build_program(experiment.config, experiment.task, experiment.on_device, raw, mesh)
    found = collectives(program.lower().compile().as_text(), mesh)
    assert {c["kind"] for c in found} == {"all-reduce"} | extra
    for collective in found:
        if collective["kind"] != "all-reduce":
            assert collective["axes"] == ["data"] and collective["bytes"] <= PROJECTIONS
