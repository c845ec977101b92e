"""Which windows are kept: counts, orders, gathering and scattering, and ratios that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn import pruning

SWIN_T = (2, 2, 6, 2)


def test_as_many_windows_are_kept_as_the_ratio_says():
    """Compared with whole numbers; a traced ratio keeps as many."""
    counts = (1, 4, 10, 49, 64, 100, 576, 2304)
    traced = jax.jit(lambda ratios: [pruning.kept_count(n, ratios) for n in counts])(jnp.arange(9) / 10)
    for windows, of_traced in zip(counts, traced, strict=True):
        expected = [windows * (10 - tenths) // 10 for tenths in range(9)]
        assert [pruning.kept_count(windows, tenths / 10) for tenths in range(9)] == expected
        np.testing.assert_array_equal(of_traced, expected)
    assert pruning.choices_for(1) == (0.0,)
    assert pruning.choices_for(4) == tuple(i / 10 for i in range(8))
    assert pruning.choices_for(100) == pruning.CHOICES


def test_windows_are_ordered_by_the_norm_of_their_tokens():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype(np.float32)
    tokens = pruning.magnitudes(x)
    np.testing.assert_allclose(tokens, np.abs(x).mean(-1), rtol=1e-6)
    windows = np.asarray(tokens).reshape(2, 2, 2, 3, 2).swapaxes(2, 3).reshape(2, 6, 4)
    order = pruning.best_first(windows)
    expected = np.argsort(-np.linalg.norm(windows, axis=-1), axis=-1)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(pruning.best_first(jnp.ones((1, 4, 2))), [[0, 1, 2, 3]])
    kept = np.asarray(pruning.is_kept(order, jnp.int32(2)))
    assert (kept.sum(axis=1) == 2).all()
    assert all(set(np.flatnonzero(row)) == set(best[:2]) for row, best in zip(kept, expected, strict=True))
    gradient = jax.grad(lambda x: pruning.magnitudes(x).sum())(x)
    np.testing.assert_array_equal(gradient, np.zeros_like(x))


def test_what_is_gathered_goes_back_to_its_place():
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    kept = jnp.array([[4, 1], [0, 2]])
    some = pruning.gathered(x, kept)
    np.testing.assert_array_equal(some[0], x[0, [4, 1]])
    np.testing.assert_array_equal(pruning.scattered(x, kept, some), x)
    changed = np.asarray(pruning.scattered(x, kept, some + 1) - x)
    assert {tuple(at) for at in np.argwhere(changed.any(-1))} == {(0, 4), (0, 1), (1, 0), (1, 2)}


def test_drawn_ratios_are_of_the_space_and_differ_from_key_to_key():
    windows, pairs = (64, 16, 4, 1), (1, 1, 3, 1)
    draw = jax.jit(jax.vmap(lambda key: pruning.drawn_ratios(key, windows, pairs)))
    drawn = jax.device_get(draw(jax.random.split(jax.random.key(0), 300)))
    for values, count, size in zip(drawn, windows, pairs, strict=True):
        assert values.shape == (300, size)
        assert (np.diff(values, axis=1) >= 0).all()
        tenths = np.unique(np.rint(10 * values).astype(int))
        np.testing.assert_allclose(values, np.rint(10 * values) / 10, atol=1e-6)
        assert tuple(tenths / 10) == pruning.choices_for(count)  # each of them, and nothing else


def test_ratios_by_name():
    assert pruning.checked_ratios("cfg3", SWIN_T) == ((0.7,), (0.0,), (0.2, 0.4, 0.5), (0.0,))
    assert pruning.checked_ratios([[0], [0.1], [0, 0.2, 0.2], [0.8]], SWIN_T) == (
        (0.0,),
        (0.1,),
        (0.0, 0.2, 0.2),
        (0.8,),
    )
    assert pruning.checked_ratios([[0.1], [0.2, 0.3]], (1, 3)) == ((0.1,), (0.2, 0.3))


@pytest.mark.parametrize(
    "ratios, message",
    [
        ([[0.1], [0], [0.2, 0.1, 0.3], [0]], r"stage 2 are \[0.2, 0.1, 0.3\]: a block would keep more windows"),
        ([[0.9], [0], [0, 0, 0], [0]], "ratio of stage 0 is 0.9. It must be at least 0 and at most 0.8"),
        ([[0], [-0.1], [0, 0, 0], [0]], "ratio of stage 1 is -0.1"),
        ([[float("nan")], [0], [0, 0, 0], [0]], "ratio of stage 0 is nan"),
        (
            [[0], [0], [0], [0]],
            r"not a ratio for each pair of blocks of 4 stages. Write it as \[\[0.0\], \[0.0\], \[0.0,",
        ),
        ([0.1, 0, 0, 0], "not a ratio for each pair"),
        ([["x"], [0], [0, 0, 0], [0]], "not a ratio for each pair"),
        (0.5, "pruning_ratios is 0.5, which is not a ratio for each pair"),
        ("cfg7", "pruning_ratios is 'cfg7'. Give ratios, or one of cfg1, cfg2, cfg3"),
    ],
)
def test_ratios_are_refused_in_a_sentence(ratios, message):
    with pytest.raises(UserError, match=message):
        pruning.checked_ratios(ratios, SWIN_T)


def test_a_stage_keeps_a_window():
    pruning.check_kept(2, 4, (0.0, 0.7))
    with pytest.raises(
        UserError, match="Of the 4 windows of stage 2 a pruning ratio of 0.8 keeps none. .* at most 0.7"
    ):
        pruning.check_kept(2, 4, (0.0, 0.8))
    with pytest.raises(UserError, match="Of the 1 windows of stage 3 a pruning ratio of 0.1 keeps none"):
        pruning.check_kept(3, 1, (0.1,))
