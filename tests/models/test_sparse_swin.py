"""SparseViT: the same as Swin where nothing is left out, and the same from gathered windows as from masked ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models import sparse_swin, swin
from vit_jax.models.sparse_swin import SparseStage
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.pruned_block import PrunedBlock
from vit_jax.nn.window_block import WindowStyle

# Its first map is no multiple of the window: 13x13 places of 4x4.
SIZE = (26, 26)
SMALL = dict(num_classes=3, drop_path_rate=0.1, width=8, depths=(2, 3), num_heads=(2, 2), window_size=4, patch_size=2)
SPARSE = ((0.3,), (0.0, 0.5))
STYLE = WindowStyle(num_heads=2, mlp_dim=16, window_size=4)


@functools.cache
def shapes(module):
    return init_shapes(module.init, jax.random.key(0), jnp.zeros((1, *SIZE, 3)))


def redrawn(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype), tree)


def images(batch=2):
    return np.random.default_rng(1).normal(size=(batch, *SIZE, 3)).astype(np.float32)


@pytest.mark.long
def test_without_ratios_it_is_a_swin_bit_for_bit():
    """The same parameters, freshly drawn too, and the same program."""
    dense, sparse = swin.build(**SMALL), sparse_swin.build(**SMALL)
    assert shapes(dense) == shapes(sparse)
    zero = sparse_swin.build(**SMALL, pruning_ratios=((0.0,), (0, 0.0)))
    assert zero == sparse

    def programs(model):
        keys = {"dropout": jax.random.key(0), "drop_path": jax.random.key(1)}
        step = jax.make_jaxpr(functools.partial(model.apply, train=True, rngs=keys))
        return str(step(redrawn(shapes(model)), images())), str(jax.make_jaxpr(model.init)(jax.random.key(0), images()))

    assert programs(dense) == programs(sparse)


@pytest.mark.long
def test_gathered_and_masked_windows_give_the_same():
    """And not the same as all windows; one program serves all ratios."""
    parameters, x = redrawn(shapes(sparse_swin.build(**SMALL))), images()
    traced = jax.jit(functools.partial(sparse_swin.build(**SMALL).apply, maps=True))

    def masked(ratios):
        return traced(parameters, x, tuple(jnp.array(stage, jnp.float32) for stage in ratios))

    dense = masked(((0.0,), (0.0, 0.0)))
    for ratios in (SPARSE, ((0.8,), (0.2, 0.7))):
        model = sparse_swin.build(**SMALL, pruning_ratios=ratios)
        gathered = jax.jit(functools.partial(model.apply, maps=True))(parameters, x)
        largest = jax.tree.map(lambda leaf: np.abs(leaf).max(), gathered)
        apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), gathered, masked(ratios))
        assert all(jax.tree.leaves(jax.tree.map(lambda a, most: a <= 1e-6 * most, apart, largest))), apart
        assert np.abs(gathered["logits"] - dense["logits"]).max() > 1e-3
    assert traced._cache_size() == 1


@functools.cache
def stage():
    """A stage of two pairs of which the second leaves out half, and what it gives block by block."""
    module = SparseStage(STYLE, 4, (0.0,) * 4, False, ratios=(0.0, 0.5))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 8)).astype(np.float32)
    params = redrawn(init_shapes(module.init, jax.random.key(0), x))
    _, found = jax.jit(functools.partial(module.apply, mutable=["hidden", "intermediates"]))(params, x)
    return np.concatenate(found["hidden"]["layers"]), found["intermediates"]["orders"]


def windows_of(x, shift):
    """[b, 64, c] as [b, window, token, c], by hand."""
    x = np.roll(np.asarray(x).reshape(2, 8, 8, -1), (-shift, -shift), (1, 2))
    return x.reshape(2, 2, 4, 2, 4, -1).swapaxes(2, 3).reshape(2, 4, 16, -1)


def test_the_best_windows_are_those_before_the_first_block_that_leaves_some_out():
    layers, [(plain, shifted)] = stage()
    for order, shift in ((plain, 0), (shifted, 2)):
        scores = np.linalg.norm(np.abs(windows_of(layers[1], shift)).mean(-1), axis=-1)
        np.testing.assert_array_equal(order, np.argsort(-scores, axis=1))


def test_what_is_left_out_stays_as_it_is():
    layers, [orders] = stage()
    for block, order, shift in ((2, orders[0], 0), (3, orders[1], 2)):
        before, after = (windows_of(x, shift) for x in (layers[block - 1], layers[block]))
        changed = (before != after).any((2, 3))
        for row, best in zip(changed, np.asarray(order), strict=True):
            assert set(np.flatnonzero(row)) == set(best[:2])
    assert (layers[0] != layers[1]).any(-1).all()  # the first pair computes all windows


@pytest.mark.long
def test_what_is_left_out_has_no_gradient():
    """Neither the parameters from it, nor it from the parameters; gathered and masked."""
    x = np.random.default_rng(0).normal(size=(2, 64, 8)).astype(np.float32)
    block = PrunedBlock(STYLE)
    params = redrawn(init_shapes(functools.partial(block.init, grid=(8, 8)), jax.random.key(0), x))
    orders = (jnp.array([[2, 0, 1, 3], [1, 3, 0, 2]]),) * 2
    out = np.ones((2, 4, 16, 1), np.float32)
    out[0, [2, 0]] = out[1, [1, 3]] = 0
    out = out.reshape(2, 2, 2, 4, 4, 1).swapaxes(2, 3).reshape(2, 64, 1)

    def of(ratio, weight, params, x):
        return (block.apply(params, x, grid=(8, 8), orders=orders, ratio=ratio)[0] * weight).sum()

    @jax.jit
    def gradients(params, x, ratio):
        both = functools.partial(jax.grad, argnums=(0, 1))
        return [both(functools.partial(of, r, w))(params, x) for r in (0.5, ratio) for w in (out, 1 - out)]

    found = gradients(params, x, jnp.float32(0.5))
    for of_params, of_x in (found[0], found[2]):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_params))
        np.testing.assert_array_equal(of_x, np.broadcast_to(out, x.shape))
    for of_params, of_x in (found[1], found[3]):
        assert all(np.any(leaf) for leaf in jax.tree.leaves(of_params))
        assert not np.any(np.asarray(of_x) * out)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found[1], found[3])


def test_operations_are_those_of_the_windows_that_are_kept():
    """Counted by hand: blocks of 16 windows of 16 places, of which the MLP sees the places that are filled up only with
    ratios."""
    model, dense = (sparse_swin.build(**SMALL, pruning_ratios=r).encoder for r in (((0.5,), (0.0, 0.0)), None))
    assert model.windows(SIZE) == [16, 4]
    attention, mlp = 2 * 16 * 8 * 32 + 4 * 16**2 * 8, 2 * 2 * 8 * 32
    saved = 2 * ((16 - 8) * attention + 13 * 13 * mlp - 8 * 16 * mlp)
    assert dense.flops(SIZE) - model.flops(SIZE) == saved


@pytest.mark.parametrize(
    "ratios, message",
    [
        (((0.0,), (0.5, 0.4)), r"stage 1 are \[0.5, 0.4\]: a block would keep more windows than the one before it"),
        (((0.9,), (0.0, 0.0)), "ratio of stage 0 is 0.9. It must be at least 0 and at most 0.8"),
        (((0.1,),), r"not a ratio for each pair of blocks of 2 stages. Write it as \[\[0.0\], \[0.0, 0.0\]\]"),
        ("cfg3", "not a ratio for each pair"),
        ("cfg4", "one of cfg1, cfg2, cfg3"),
    ],
)
def test_ratios_of_other_stages_are_refused(ratios, message):
    with pytest.raises(UserError, match=message):
        sparse_swin.build(**SMALL, pruning_ratios=ratios)


def test_a_kept_count_of_zero_is_refused():
    model = sparse_swin.build(**SMALL, pruning_ratios=((0.0,), (0.0, 0.8)))
    with pytest.raises(
        UserError, match="Of the 4 windows of stage 1 a pruning ratio of 0.8 keeps none. .* at most 0.7"
    ):
        init_shapes(model.init, jax.random.key(0), images())
    with pytest.raises(UserError, match="Unknown scores 'norms'. Did you mean 'norm'"):
        sparse_swin.build(**SMALL, scores="norms")


def test_published_ratios_are_of_the_published_size():
    dense, pruned = (sparse_swin.build("T", num_classes=0, pruning_ratios=r).encoder for r in (None, "cfg3"))
    assert pruned.windows((672, 672)) == [576, 144, 36, 9]
    # 30% of the windows in 2 of 12 blocks, 80%, 60% and 50% in 6 of them.
    assert 0.7 < pruned.flops((672, 672)) / dense.flops((672, 672)) < 0.8
