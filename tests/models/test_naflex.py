"""NaFlex: sizes as transformers chooses them, padding that changes nothing, the square image of a plain ViT, a field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.drawn import drawn
from tests.tasks.test_clip import KEY, batch_of
from tests.tiny_pairs import FIELDS, TEXT, pairs_config
from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.fields.naflex import size_of_patches
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import naflex, siglip, vit
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.patch import patchify
from vit_jax.tasks import DataInfo
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

MODEL = {"name": "siglip", "naflex": True, "variant": "mu/4", "grid": 3, "embed_dim": 32, "text": TEXT}


def padded(images, length):
    """Images of several sizes as rows of patches, filled up with noise."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(len(images), length, 48)).astype(np.float32)
    shapes = np.array([[image.shape[0] // 4, image.shape[1] // 4] for image in images], np.int32)
    for row, image in zip(rows, images, strict=True):
        patches = np.asarray(patchify(image[None], (4, 4))).reshape(-1, 48)
        row[: len(patches)] = patches
    return rows, shapes


@pytest.mark.long
@pytest.mark.parametrize("pooling", ["map", "mean"])
def test_an_image_is_what_it_is_by_itself(pooling):
    """Whatever is in the batch with it and behind its patches; and of the grid's own size it is what a ViT makes of it,
    with the same parameters."""
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(*size, 3)).astype(np.float32) for size in ((12, 12), (8, 20), (4, 4))]
    model = naflex.build(num_classes=3, variant="mu/4", grid=3, pooling=pooling)
    plain = vit.build(num_classes=3, variant="mu/4", pooling=pooling)
    params = drawn(plain.init, KEY, jnp.zeros((1, 12, 12, 3)))["params"]
    shapes = init_shapes(model.init, KEY, *model.example_inputs(None))["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    leaves, tree = jax.tree.flatten(params)
    params = jax.tree.unflatten(tree, [rng.normal(0.1, 0.3, leaf.shape).astype(np.float32) for leaf in leaves])
    apply = jax.jit(lambda rows, shapes: model.apply({"params": params}, rows, shapes)["logits"])
    together = apply(*padded(images, 12))
    for image, found in zip(images, together, strict=True):
        np.testing.assert_allclose(apply(*padded([image] * 3, 12))[0], found, atol=2e-5)
        np.testing.assert_allclose(apply(*padded([image], 10))[0], found, atol=2e-5)
    expected = jax.jit(plain.apply)({"params": params}, images[0][None])["logits"][0]
    np.testing.assert_allclose(together[0], expected, atol=2e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-2


@pytest.mark.parametrize(
    ("height", "width", "size"),
    # As Siglip2ImageProcessor of transformers 5.23 chooses them for 256 patches of 16 pixels.
    [(480, 640, (14, 18)), (640, 480, (18, 14)), (100, 1000, (5, 50)), (16, 16, (16, 16)), (3000, 10, (256, 1))],
)
def test_the_largest_size_with_so_many_patches(height, width, size):
    assert size_of_patches(height, width, 16, 256) == size


def test_the_field_cuts_an_image_into_patches():
    fields = build_fields(
        {"image": {"name": "naflex", "patch_size": 4, "max_patches": 10}}, Context(Preprocess((8, 8)), ())
    )
    image = np.random.default_rng(0).integers(0, 255, (20, 41, 3)).astype(np.uint8)
    example = fields.evaluated(fields.read({"image": image}, "here", training=False))
    found = fields.batched(example)
    rows, columns = found["image_shape"].tolist()
    assert (rows, columns) == size_of_patches(20, 41, 4, 10) and example["image"].shape == (4 * rows, 4 * columns, 3)
    assert found["image"].shape == (10, 48) and found["image"].dtype == np.uint8
    np.testing.assert_array_equal(
        found["image"][: rows * columns], np.asarray(patchify(example["image"][None], (4, 4))).reshape(-1, 48)
    )
    assert not found["image"][rows * columns :].any()
    on_device = fields.on_device({"image": found["image"][None]})["image"]
    np.testing.assert_allclose(on_device, (found["image"][None] - 127.5) / 127.5, atol=1e-6)
    assert {name: spec.shape for name, spec in fields.specs.items()} == {"image": (10, 48), "image_shape": (2,)}


@pytest.mark.long
def test_siglip_of_any_aspect_ratio_learns_from_patches():
    context = Context(Preprocess((8, 8)), ("a",))
    kinds = {**FIELDS, "image": {"name": "naflex", "patch_size": 4, "max_patches": 6}}
    data = DataInfo((8, 8), ("a",), build_fields(kinds, context))
    task = build_named("task", {"name": "siglip"}, "config.task", model=MODEL, data=data)
    rows, shapes = padded([np.ones((4 * (1 + i % 2), 4 * (1 + i % 3), 3), np.float32) * i for i in range(8)], 6)
    batch = {**batch_of(), "image": rows, "image_shape": shapes}
    rng = np.random.default_rng(0)
    shapes_of = init_shapes(task.init, KEY, batch)
    variables = jax.tree.map(lambda x: rng.uniform(0.05, 0.2, x.shape).astype(x.dtype), shapes_of)
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda p: task.loss({"params": p, "model_state": {}}, batch, KEY, jnp.int32(0))[0])
    )(variables["params"])
    assert np.isfinite(loss) and np.abs(gradient["encoder"]["pos_embedding"]).max() > 0
    assert task.forward_flops(batch) > task.model.text_flops(10) > 0
    assert siglip.downstream(task.model_spec["kwargs"])["name"] == "naflex"
    with pytest.raises(UserError, match="rows and columns"):
        jax.eval_shape(lambda v: task.model.apply(v, rows), variables)


@pytest.mark.long
def test_a_run_on_images_of_any_aspect_ratio(tmp_path):
    """Through training's transform and pipeline, an evaluation of the features of whole images, and back from disk."""
    values = pairs_config(tmp_path, MODEL, "siglip", steps=3, log_every=1)
    patches = {"name": "naflex", "patch_size": 4, "max_patches": 6}
    values["data"] = {**values["data"], "fields": {**FIELDS, "image": patches}}
    summary = train(build_experiment(values), tmp_path / "run", jax.devices()[:1])
    assert 0 <= summary["knn/accuracy"] <= 1
    loaded = vit_jax.load(tmp_path / "run")
    assert loaded.fields["image"].to_json() == patches
