"""Mixup, cutmix and erasing: the formula in NumPy, the draws' distributions, and independence of the devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.tiny import tiny_experiment
from vit_jax import UserError
from vit_jax.data.mix import Mix

K = 5


@functools.cache
def batch(size=16, height=12, width=10):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(size, height, width, 3)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, K, size).astype(np.int32), "corrupt": np.zeros(size, np.int32)}


@functools.cache
def mixer(mix):
    return jax.jit(lambda b, seed: mix(b, jax.random.key(seed), K))


def mixed(mix, seed=0, rows=None):
    return jax.tree.map(np.asarray, mixer(mix)(rows or batch(), seed))


def own_shares(labels, rows):
    """The share of each row's own label where it differs from its neighbour's."""
    differs = rows["label"] != np.roll(rows["label"], 1)
    return labels[np.arange(len(labels)), rows["label"]][differs], differs


@pytest.mark.parametrize("per", ["batch", "example"])
def test_mixup_is_the_formula(per):
    out = mixed(Mix(mixup=0.4, per=per))
    shares, differs = own_shares(out["label"], batch())
    assert (len(np.unique(shares)) == 1) == (per == "batch")
    share = np.full(16, shares[0]) if per == "batch" else np.where(differs, 0.0, np.nan)
    share[differs] = shares
    x, one_hot = batch()["image"], np.eye(K, dtype=np.float32)[batch()["label"]]
    expected = share[:, None, None, None] * x + (1 - share[:, None, None, None]) * np.roll(x, 1, axis=0)
    np.testing.assert_allclose(out["image"][differs], expected[differs], atol=1e-6)
    expected = share[:, None] * one_hot + (1 - share[:, None]) * np.roll(one_hot, 1, axis=0)
    np.testing.assert_allclose(out["label"][differs], expected[differs], atol=1e-6)
    assert out["label"].dtype == np.float32 and out["image"].dtype == np.float32
    np.testing.assert_array_equal(out["corrupt"], 0)


def test_the_own_share_is_the_larger_and_follows_beta():
    rows = {"image": np.zeros((4000, 1, 1, 3), np.float32), "label": np.arange(4000, dtype=np.int32) % 2}
    shares = mixed(Mix(mixup=0.8, per="example"), rows=rows)["label"][np.arange(4000), rows["label"]]
    draws = np.random.default_rng(1).beta(0.8, 0.8, 200_000)
    expected = np.maximum(draws, 1 - draws)
    assert shares.min() >= 0.5
    for quantile in (0.1, 0.5, 0.9):
        assert abs(np.quantile(shares, quantile) - np.quantile(expected, quantile)) < 0.02


@pytest.mark.parametrize("per", ["batch", "example"])
def test_cutmix_pastes_a_box_and_counts_its_pixels(per):
    for seed in range(4):
        out = mixed(Mix(cutmix=1.0, per=per), seed)
        x = batch()["image"]
        own, other = out["image"] == x, out["image"] == np.roll(x, 1, axis=0)
        assert (own.all(-1) | other.all(-1)).all()
        pasted = other.all(-1)
        for mask in pasted:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert mask.sum() == len(rows) * len(columns)
            assert not len(rows) or (
                rows[-1] - rows[0] + 1 == len(rows) and columns[-1] - columns[0] + 1 == len(columns)
            )
        shares, differs = own_shares(out["label"], batch())
        np.testing.assert_allclose(shares, 1 - pasted.mean((1, 2))[differs], atol=1e-6)
        assert per == "example" or (pasted == pasted[0]).all()


def test_the_area_of_boxes_is_uniform_but_for_the_edges():
    rows = {"image": np.zeros((2000, 32, 32, 3), np.float32), "label": np.arange(2000, dtype=np.int32) % 2}
    left = mixed(Mix(cutmix=1.0, per="example"), rows=rows)["label"][np.arange(2000), rows["label"]]
    rng, areas = np.random.default_rng(0), []
    for share in rng.uniform(size=2000):
        side, (y, x) = 32 * np.sqrt(1 - share), 32 * rng.random(2)
        edges = [np.clip(np.round([c - side / 2, c + side / 2]), 0, 32) for c in (y, x)]
        areas.append(np.prod([high - low for low, high in edges]) / 32**2)
    for quantile in (0.2, 0.5, 0.8):
        assert abs(np.quantile(1 - left, quantile) - np.quantile(areas, quantile)) < 0.04


def test_both_take_turns():
    kinds = []
    for seed in range(40):
        out = mixed(Mix(mixup=1.0, cutmix=1.0), seed)["image"]
        kinds.append(bool(((out == batch()["image"]) | (out == np.roll(batch()["image"], 1, axis=0))).all()))
    assert 8 < sum(kinds) < 32


def test_erasing():
    rows = {"image": np.full((1000, 20, 30, 3), 9.0, np.float32), "label": np.zeros(1000, np.int32)}
    out = mixed(Mix(erase=0.3, erase_fill="mean"), rows=rows)
    assert set(np.unique(out["image"])) == {0.0, 9.0} and out["label"] is not None
    np.testing.assert_array_equal(out["label"], rows["label"])
    erased = (out["image"] == 0).all(-1)
    assert 240 < erased.any((1, 2)).sum() < 360
    for mask in erased[erased.any((1, 2))]:
        height, width = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == height * width
        assert 0.02 * 600 * 0.6 < height * width < 600 / 3 * 1.15 and 0.2 < height / width < 5
    assert erased.any((0, 2)).all() and erased.any((0, 1)).all()
    noise = mixed(Mix(erase=1.0), rows=rows)["image"]
    noise = noise[noise != 9.0]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_labels_may_be_shares_already():
    one_hot = np.eye(K, dtype=np.int32)[batch()["label"]]
    out = mixed(Mix(cutmix=1.0), rows={**batch(), "label": one_hot})
    np.testing.assert_array_equal(out["label"], mixed(Mix(cutmix=1.0))["label"])


@pytest.mark.long
def test_eight_devices_give_what_one_gives():
    mix = Mix(mixup=0.3, cutmix=1.0, erase=0.5, per="example")
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.device_put(batch(), rows)
    step = jax.jit(lambda b: mix(b, jax.random.key(2), K), out_shardings=rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), jax.device_get(step(sharded)), mixed(mix, 2))


def test_without_anything_the_batch_stays():
    out = mixed(Mix())
    assert out["label"].dtype == np.int32
    jax.tree.map(np.testing.assert_array_equal, out, batch())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mixup", "-0.1", "alpha of a Beta"),
        ("mixup", "yes", "mixup is 'yes'"),
        ("erase", "1.5", "erase=1.5 is not a share"),
        ("erase_area", "(0.5, 0.1)", "erase_area"),
        ("erase_area", "(0.5, 2)", "high <= 1"),
        ("erase_fill", "nosie", "Did you mean 'noise'"),
        ("per", "device", "Known: batch, example"),
        ("mixupp", "0.1", "'config.data.mix.mixupp'. Did you mean 'mixup'"),
    ],
)
def test_bad_values_get_a_sentence(key, value, message):
    with pytest.raises(UserError, match=message):
        tiny_experiment(**{f"data__mix__{key}": value})


def test_a_task_without_labels_is_refused(monkeypatch):
    from vit_jax.tasks.classify import Classify

    monkeypatch.setattr(Classify, "mixed_labels", False)
    with pytest.raises(UserError, match="'classify' has no labels that mixup or cutmix could mix"):
        tiny_experiment(data__mix__cutmix="1.0")
    assert tiny_experiment(data__mix__erase="0.2").on_device


def test_prepare_mixes_training_batches_only():
    experiment = tiny_experiment(data__mix__mixup="0.5")
    raw = jax.tree.map(jnp.asarray, experiment.pipeline.batch(0))
    assert jax.eval_shape(experiment.on_device, raw, jax.random.key(0))["label"].shape == (16, 10)
    assert experiment.on_device_eval(raw)["label"].shape == (16,)


def test_views_of_one_image_are_not_mixed_with_each_other():
    """Of `data.repeats` rows in a row."""
    rows = {"image": np.zeros((12, 1, 1, 3), np.float32), "label": np.repeat(np.arange(4, dtype=np.int32), 3)}
    labels = mixed(Mix(mixup=1.0, per="example", apart=3), rows=rows)["label"]
    partner = np.roll(rows["label"], 3)
    np.testing.assert_allclose(labels[np.arange(12), rows["label"]] + labels[np.arange(12), partner], 1, atol=1e-6)
    assert (labels[np.arange(12), partner] > 0).all()
    with pytest.raises(UserError, match="apart is 0"):
        Mix(mixup=1.0, apart=0)


@pytest.mark.parametrize(
    ("batch_size", "repeats", "apart", "advice"),
    [
        (16, 3, 2, "mix.apart to 3, or to at most 13"),
        (16, 3, 14, "mix.apart to 3, or to at most 13"),
        (16, 1, 16, "mix.apart to 1, or to at most 15"),
        (5, 3, 3, "batch_size to 6 or more"),
        (1, 1, 1, "batch_size to 2 or more"),
    ],
)
def test_no_image_is_mixed_with_itself(batch_size, repeats, apart, advice):
    given = {"batch_size": batch_size, "data__repeats": repeats, "data__mix__apart": apart}
    assert tiny_experiment(**given, data__mix__erase=0.1)  # which mixes nothing
    why = f": {repeats} rows in a row show the same one" if repeats > 1 else ""
    with pytest.raises(UserError, match=f"is mixed with itself{why}. .*config.*{advice}"):
        tiny_experiment(**given, data__mix__mixup=0.5)


@pytest.mark.parametrize("apart", [3, 4, 13])
def test_what_is_far_enough_apart_is_another_image(apart):
    Mix(mixup=1.0, apart=apart).check_apart(16, 3)
    images = np.arange(16) // 3
    assert (np.roll(images, apart) != images).all()
