"""A published file with batch statistics is loaded, evaluated, fine-tuned and written back; parity is in tests/parity."""

import jax
import numpy as np
import pytest

import vit_jax
from vit_jax import UserError
from vit_jax.checkpoints.families import timm_resnet
from vit_jax.checkpoints.safetensors import write_safetensors
from vit_jax.checkpoints.source import model_shapes, nested, open_source
from vit_jax.checkpoints.transfer import init_from
from vit_jax.models.resnet import build
from vit_jax.nn.init_shapes import init_shapes

KWARGS = {"variant": "18", "depths": [1, 1], "width": 8, "num_classes": 3}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file in timm's names with every value random, and its parameters and statistics in ours."""
    rng = np.random.default_rng(0)
    params, state = model_shapes("resnet", KWARGS, (32, 32))
    arrays = {n: rng.uniform(0.5, 1.5, shape).astype(np.float32) for n, shape in (params | state).items()}
    tensors = timm_resnet.name_map(KWARGS, {}).write(arrays)
    tensors |= {"bn1.num_batches_tracked": np.array(7), "layer1.0.bn2.num_batches_tracked": np.array(7)}
    path = tmp_path_factory.mktemp("resnet") / "model.safetensors"
    write_safetensors(path, tensors)
    return path, {n: arrays[n] for n in params}, {n: arrays[n] for n in state}


def test_it_gives_what_the_model_does_with_its_statistics(published):
    path, params, state = published
    loaded = vit_jax.load(path)
    assert loaded.metadata["model"] == {"name": "resnet", "kwargs": KWARGS}
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = {"params": nested(params), **nested(state)}
    expected = jax.jit(build(**KWARGS).apply)(variables, images)
    np.testing.assert_allclose(loaded.logits(images), expected["logits"], rtol=1e-6)
    other = jax.tree.map(np.ones_like, nested(state))
    assert not np.allclose(loaded.logits(images), build(**KWARGS).apply({**variables, **other}, images)["logits"])
    again = timm_resnet.name_map(KWARGS, {}).write(params | state)
    assert again.keys() | {"bn1.num_batches_tracked", "layer1.0.bn2.num_batches_tracked"} == set(
        vit_jax.checkpoints.safetensors.SafetensorsFile(path).shapes
    )


def test_fine_tuning_starts_from_parameters_and_statistics(published):
    path, params, state = published
    fresh = init_shapes(build(**{**KWARGS, "num_classes": 7}).init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    found, [report] = init_from(fresh, str(path))
    assert f"{len(state)} arrays of batch_stats" in str(report)
    np.testing.assert_array_equal(found["batch_stats/encoder/norm1/var"], state["batch_stats/encoder/norm1/var"])
    assert {n for n in found if n.startswith("params")} == {f"params/{n}" for n in params if not n.startswith("head")}


def test_a_statistic_that_is_missing_or_of_another_size(published, tmp_path):
    _, params, state = published
    tensors = timm_resnet.name_map(KWARGS, {}).write(params | state)
    for change, message in (
        (lambda t: t.pop("layer2.0.bn2.running_mean"), "has no tensor 'layer2.0.bn2.running_mean'"),
        (lambda t: t.update({"bn1.running_var": np.ones(4, np.float32)}), "running_var.*batch_stats/encoder/norm1/var"),
    ):
        wrong = dict(tensors)
        change(wrong)
        write_safetensors(tmp_path / "model.safetensors", wrong)
        with pytest.raises(UserError, match=message):
            open_source(tmp_path / "model.safetensors").read()


def test_timm_has_a_name_for_the_published_depths_alone():
    metadata = {"preprocess": {"image_size": [64, 64]}, "labels": [], "image_size": [64, 64]}
    for change, written in (
        ({}, "resnet50"),
        ({"depths": [1]}, None),
        ({"width": 128}, None),
        ({"stem": "cifar"}, None),
    ):
        kwargs = {"variant": "50", "num_classes": 3, **change}
        found = timm_resnet.sidecar({**metadata, "model": {"name": "resnet", "kwargs": kwargs}})
        assert (found and found["config.json"]["architecture"]) == written
