"""Bits of tokens, LPIPS and CLIP scores, and the small network that judges, each written out."""

import types

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, untrained
from tests.tiny_pairs import pairs_config
from vit_jax import UserError, load
from vit_jax.data.preprocess import Preprocess
from vit_jax.evaluators import bits, clip_score, lpips
from vit_jax.evaluators.pictures import Pictures
from vit_jax.models import small_conv, vgg
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.lpips_weights import lpips_weights
from vit_jax.nn.perceptual import map_distance, seen_by


def test_bits_are_counted_once_for_each_image():
    image = types.SimpleNamespace(preprocess=Preprocess((4, 2)))
    pipeline = types.SimpleNamespace(source=range(3), fields={"image": image})
    evaluator = bits.build(lambda source: pipeline)
    nats = np.array([[1.0, 2, 4], [3, 3, 3], [2, 2, 2], [9, 9, 9]])
    weights = np.array([[1.0, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])

    def parts(pipeline):
        for rows in (slice(0, 2), slice(2, 4)):
            found = {"token_losses": nats[rows], "token_weights": weights[rows]}
            yield evaluator.measure(lambda batch, names, found=found: found, {"valid": np.array([1, 1, 1, 0])[rows]})

    found = evaluator.metrics(parts)
    total = (3 + 9 + 6) / np.log(2)
    assert found == pytest.approx(
        {"per_token": total / 8, "per_image": total / 3, "per_pixel": total / 24, "tokens": 8 / 3}
    )


def test_the_small_network():
    model = small_conv.build(num_classes=5)
    shapes = init_shapes(model.init, jax.random.key(0), np.zeros((1, 16, 16, 3)))
    out = jax.eval_shape(lambda v, x: model.apply(v, x, maps=True), shapes, np.zeros((2, 16, 16, 3)))
    assert out["features"].shape == (2, 64) and out["logits"].shape == (2, 5)
    assert {stride: x.shape[1:] for stride, x in out["maps"].items()} == {
        1: (16, 16, 32),
        2: (8, 8, 64),
        4: (4, 4, 64),
    }
    assert model.flops((16, 16)) == 18 * (3 * 32 * 256 + 32 * 64 * 64 + 64 * 64 * 16)
    with pytest.raises(UserError, match="no convolution"):
        small_conv.build(num_classes=5, widths=())


def measured(evaluator, original, made):
    """Metrics of one batch whose last row is a filler."""
    valid = np.array([1.0] * (len(original) - 1) + [0])
    part = evaluator.measure(
        lambda batch, names: {"original": original, "reconstruction": made}, {"valid": valid}
    )  # fmt: skip
    return evaluator.metrics(lambda pipeline: [jax.device_get(part)])


@pytest.mark.long
def test_lpips_by_vgg(monkeypatch):
    """On bytes, in LPIPS's own statistics, whatever those of the checkpoint are."""
    depths = (1,) * 5  # a network with VGG-16's maps, and less to compute
    monkeypatch.setattr(lpips, "VARIANTS", {"16": depths})
    model = vgg.build("16", depths=depths, hidden=0, num_classes=0)
    shapes = init_shapes(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, max(np.prod(x.shape[:-1]), 4) ** -0.5, x.shape), shapes)
    params = jax.tree.map(np.float32, params)
    loaded = types.SimpleNamespace(
        model=model, params=params, model_state={}, variables=params, preprocess=Preprocess((32, 32))
    )
    lpips.distance.cache_clear()
    monkeypatch.setattr(lpips, "load", lambda path: loaded)
    original, made = rng.uniform(0, 1, (2, 3, 32, 32, 3)).astype(np.float32)
    found = measured(lpips.build(lambda source: None, network="vgg.safetensors"), original, made)
    lpips.distance.cache_clear()

    @jax.jit
    def expected(*pair):
        return map_distance(
            *(model.apply({"params": params}, seen_by(x), maps=True)["maps"] for x in pair), lpips_weights()
        )

    expected = expected(*(np.round(255 * x[:2]) / np.float32(127.5) - 1 for x in (made, original)))
    assert found == {"lpips": pytest.approx(float(expected.mean()), rel=1e-4), "images": 2}
    assert found["lpips"] > 0.01


def test_another_network_s_distance_has_another_name(tmp_path):
    path = untrained(tmp_path / "judge", tiny_config(), signed=True)
    rng = np.random.default_rng(0)
    original, made = rng.uniform(0, 1, (2, 3, 8, 8, 3)).astype(np.float32)
    found = measured(lpips.build(lambda source: None, network=str(path)), original, made)
    loaded = load(path)
    apply = jax.jit(lambda x: loaded.model.apply({"params": loaded.params}, x, maps=True)["maps"])
    maps = [apply((np.round(255 * x[:2]) - 127.5) / np.float32(127.5)) for x in (made, original)]
    [name] = set(found) - {"images"}
    assert name.startswith("perceptual(judge@") and len(name) == 26
    assert found[name] == pytest.approx(float(jax.jit(map_distance)(*maps).mean()), rel=1e-3)


@pytest.mark.long
def test_clip_scores(tmp_path, monkeypatch):
    path = untrained(tmp_path / "clip", pairs_config(tmp_path), signed=True)
    loaded = load(path)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    labels = np.array([0, 1, 0, 0, 1])
    evaluator = clip_score.build(lambda source: None, clip=str(path), count=5, template="a {}")
    evaluator = evaluator.judging(types.SimpleNamespace(label_names=("cat", "dog")))
    monkeypatch.setattr(clip_score.ClipScore, "pictures", lambda self, run: Pictures(images, None, {"label": labels}))
    found = evaluator.metrics(None)
    texts = loaded.embed_texts(["a cat", "a dog"])[labels]
    embedded = loaded.embed_images(list(images))
    expected = 100 * np.maximum((embedded * texts).sum(1), 0).mean()
    [name] = set(found) - {"exchanged"}
    exchanged = 100 * np.maximum((embedded * loaded.embed_texts(["a cat", "a dog"])[1 - labels]).sum(1), 0).mean()
    assert found["exchanged"] == pytest.approx(float(exchanged), rel=1e-5)
    assert name.startswith("score(clip@") and found[name] == pytest.approx(float(expected), rel=1e-5)
    labels[:] = 0  # one text, and no other
    assert set(evaluator.metrics(None)) == {name}
    labels[:] = [0, 1, 0, 0, 1]
    assert clip_score.clip_score(embedded, -embedded) == 0
    assert clip_score.clip_score(embedded, embedded) == pytest.approx(100)

    # Texts of the data's own field.
    monkeypatch.setattr(
        clip_score.ClipScore, "pictures", lambda self, run: Pictures(images, None, {"text": labels[:, None]})
    )
    field = types.SimpleNamespace(text=lambda ids: ("a cat", "a dog")[ids[0]])
    real = types.SimpleNamespace(fields={"text": field})
    assert clip_score.build(lambda source: real, clip=str(path)).metrics(None) == found
    with pytest.raises(UserError, match="asked for no text and for no class"):
        clip_score.build(lambda source: types.SimpleNamespace(fields={}), clip=str(path)).metrics(None)
    with pytest.raises(UserError, match="has no place for a class"):
        clip_score.build(lambda source: None, clip=str(path), template="a cat")
