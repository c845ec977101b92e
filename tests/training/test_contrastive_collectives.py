"""What the steps of the contrastive tasks send between devices besides the sums of gradients."""

import jax
import pytest

from tests.tiny_contrastive import RESNET, VIT, contrastive_config
from vit_jax.planning.collectives import collectives
from vit_jax.tasks.moco_v3 import contrast
from vit_jax.training.experiment import build_experiment
from vit_jax.training.program import build_program
from vit_jax.training.sharding import batch_sharding, make_mesh

PROJECTIONS = 2 * 8 * 8 * 4  # two views of eight images, eight numbers each, float32


def test_of_two_views_the_second_is_gathered():
    """MoCo v3's comparison by itself: each query meets all keys, and stays where it is."""
    mesh = make_mesh({}, jax.devices())
    views = jax.ShapeDtypeStruct((8, 8), jax.numpy.float32, sharding=batch_sharding(mesh))
    loss = jax.jit(lambda queries, keys: contrast(queries, keys, 0.2)[0].mean())
    found = collectives(loss.lower(views, views).compile().as_text(), mesh)
    assert {c["kind"] for c in found} == {"all-gather", "all-reduce"}
    assert [c["bytes"] for c in found if c["kind"] == "all-gather"] == [PROJECTIONS // 2]


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
