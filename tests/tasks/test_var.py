"""VAR's task: what its loss is, samples with a cache as without and by their own key alone, and editing."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax.errors import UserError
from vit_jax.models.var import build as build_var
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count
from vit_jax.tasks import DataInfo
from vit_jax.tasks.var import ScaleSampling, build, kept_tokens

TOKENIZER = {"name": "var_tokenizer", "scales": [1, 2, 4], "vocab_size": 12, "latent_width": 4, "channels": 4,
             "groups": 2, "multipliers": [1, 1], "num_blocks": 1, "phis": 2, "attention_levels": [],
             "middle_attends": False}  # fmt: skip
MODEL = {"name": "var", "depth": 2, "width": 16, "num_heads": 2}
CLASSES = ("a", "b", "c")


def config(**overrides):
    """A run of seconds: digits of 8x8 pixels as maps of 1, 4 and 16 tokens."""
    return tiny_config(data__image_size=[8, 8], **overrides) | {
        "task": {"name": "var", "tokenizer": TOKENIZER},
        "model": {**MODEL, "dropout_rate": 0.1},
        "evals": {"val": {"name": "perplexity"}},
    }


@functools.cache
def task_of(classes=CLASSES, shared=False, **kwargs):
    model = {**MODEL, "depth": 1, "shared_modulation": shared, "drop_path_rate": 0.0}
    return build(model=model, data=DataInfo((8, 8), classes), tokenizer=TOKENIZER, **kwargs)


@functools.cache
def variables_of(task):
    """Every parameter random."""
    rng = np.random.default_rng(1)
    shapes = init_shapes(task.init, jax.random.key(0), {})
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32), shapes)


IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
LABELS = jnp.array([0, 1, 2, 3])


# Of 256 and 512 pixels (the authors' code has these counts).
@pytest.mark.parametrize(
    ("depth", "side", "count"),
    [
        (16, 16, 310_283_520),
        pytest.param(20, 16, 600_917_136, marks=pytest.mark.long),
        pytest.param(24, 16, 1_033_399_360, marks=pytest.mark.long),
        pytest.param(30, 16, 2_010_020_356, marks=pytest.mark.long),
        (36, 32, 2_353_893_904),
    ],
)
def test_the_published_sizes(depth, side, count):
    tokenizer = {"name": "var_tokenizer"}
    names = tuple(map(str, range(1000)))
    model = {"name": "var", "depth": depth, "shared_modulation": side == 32}
    task = build(model=model, data=DataInfo((16 * side, 16 * side), names), tokenizer=tokenizer)
    assert parameter_count(task.model, 16 * side) == count
    assert task.model.width == 64 * depth and task.model.drop_path_rate == pytest.approx(0.1 * depth / 24)


@pytest.mark.long
def test_initial_values():
    """Blocks do next to nothing at first, and all tokens are as likely."""
    grids = [(1, 1), (2, 2)]
    sizes = {"num_classes": 3, "vocab_size": 12, "latent_width": 4, "depth": 1, "width": 64, "num_heads": 4}
    for shared in (False, True):
        model = build_var(grids=grids, **sizes, shared_modulation=shared, gate_init=1e-4)
        shapes = init_shapes(model.init, jax.random.key(0), *model.example_inputs(None))["params"]
        some = {name: shapes[name] for name in ("class_embedding", "head", "norm", "modulation") if name in shapes}
        some["block_00"] = {name: leaf for name, leaf in shapes["block_00"].items() if name != "attention"}
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), some)
        params = jax.jit(model.redrawn)(zeros, jax.random.key(0, impl="rbg"))
        stddev = (3 * 64) ** -0.5
        if shared:
            shift, scale, gate = (np.std(params["block_00"]["modulation_table"][i]) for i in range(3))
            assert shift == pytest.approx(0.5 / 8, rel=0.3) and scale == pytest.approx(0.5 / 8, rel=0.3)
            assert gate == pytest.approx(1e-4 / 8, rel=0.3)
            assert np.std(params["modulation"]["kernel"]) == pytest.approx(stddev, rel=0.1)
        else:
            kernel = np.std(params["block_00"]["modulation"]["kernel"], axis=(0, 2))
            wanted = stddev * np.array([0.5, 0.5, 1e-4] * 2)
            np.testing.assert_allclose(kernel, wanted, rtol=0.1)
        assert np.std(params["class_embedding"]) == pytest.approx(stddev, rel=0.2)
        assert np.std(params["head"]["kernel"]) == pytest.approx(0.02 * stddev, rel=0.1)
        assert np.std(params["norm"]["modulation"]["kernel"]) == pytest.approx(0.5 * stddev, rel=0.1)
        assert np.std(params["block_00"]["mlp"]["fc2"]["kernel"]) == pytest.approx(stddev / 2**0.5, rel=0.1)


def test_a_token_sees_its_own_map_and_those_before():
    """The Jacobian of the logits by what is read where tokens will be."""
    task = task_of()
    variables = {"params": {k: v for k, v in variables_of(task)["params"].items() if k != "tokenizer"}}
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(1, 20, 4)), jnp.float32)
    seen = jax.jit(jax.jacobian(lambda x: task.model.apply(variables, LABELS[:1], x)[0].sum(1)))(inputs)
    seen = np.abs(seen[:, 0]).sum(-1) > 0  # [of 21, by 20]
    level = np.repeat([0, 1, 2], [1, 4, 16])
    np.testing.assert_array_equal(seen, level[:, None] >= level[1:])


@pytest.mark.long
def test_the_loss_by_hand_and_its_gradients():
    task = task_of()
    variables, batch = variables_of(task), {"image": IMAGES, "label": LABELS[:3].repeat(2)[:4]}
    sure = dataclasses.replace(task, label_drop=0.0)

    @jax.jit
    def run(variables):
        value, gradients = jax.value_and_grad(sure.loss, has_aux=True)(variables, batch, jax.random.key(0), 0)
        indices = task._indices(variables, batch)
        inputs = task._tokenizing(variables, indices, task._grids, method="inputs")
        # Some are shown without their class: with all of them, it is the null class. Tokens may be there already.
        never = dataclasses.replace(task, label_drop=0.999999).loss(variables, batch, jax.random.key(0), 0)[0]
        null = sure.loss(variables, {"indices": indices, "label": jnp.full(4, 3)}, jax.random.key(0), 0)[0]
        return value, gradients, indices, task.model.apply(task._own(variables), batch["label"], inputs), never, null

    (value, (metrics, _)), gradients, indices, logits, never, null = run(variables)
    logits = np.float64(logits)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = -np.take_along_axis(logs, np.asarray(indices)[..., None], 2)[..., 0]
    assert float(value) == pytest.approx(picked.mean(), rel=1e-5)
    means = {name: float(total / weight) for name, (total, weight) in metrics.items()}
    assert means["bits"] == pytest.approx(picked.mean() / math.log(2), rel=1e-5)
    assert means["loss_last"] == pytest.approx(picked[:, 5:].mean(), rel=1e-5)
    assert means["accuracy"] == pytest.approx((logits.argmax(-1) == indices).mean())
    assert float(never) == pytest.approx(float(null), rel=1e-6) and abs(float(null - value)) > 1e-4
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(gradients["params"]["tokenizer"]))
    assert all(jnp.any(leaf) for leaf in jax.tree.leaves(gradients["params"]["block_00"]))


@pytest.fixture(scope="module")
def drawing():
    task = task_of(shared=True)
    run = jax.jit(functools.partial(task._drawn, variables_of(task)), static_argnums=2)
    return task, run, jax.random.split(jax.random.key(5), 4)


HOW = ScaleSampling(guidance=2.0, top_k=9, top_p=0.95)


@pytest.mark.long
def test_samples_with_a_cache_are_those_without(drawing):
    task, run, keys = drawing
    tokens, summed = run({"label": LABELS}, keys, HOW)
    assert tokens.shape == (4, 21) and len(np.unique(tokens)) > 4
    np.testing.assert_array_equal(run({"label": LABELS}, keys, dataclasses.replace(HOW, cache=False))[0], tokens)
    # What is drawn is what the latents are made of.
    embedded = jax.jit(lambda v, t: task._tokenizing(v, t, task._grids, method="embed"))(variables_of(task), tokens)
    np.testing.assert_allclose(summed, embedded, atol=1e-5)


@pytest.mark.long
def test_a_sample_is_of_its_own_key_and_editing_keeps_what_is_outside_the_mask(drawing):
    task, run, keys = drawing
    mask = np.zeros((2, 8, 8, 1), np.float32)
    mask[:, :, 5:] = 1
    edited, everything = (
        np.asarray(run({"label": LABELS[2:], "image": IMAGES[2:], "mask": m}, keys[2:], HOW)[0])
        for m in (mask, np.ones_like(mask))
    )
    # In another batch, and with all of it to be new, the samples are the same.
    np.testing.assert_array_equal(everything, run({"label": LABELS}, keys, HOW)[0][2:])
    given = np.asarray(jax.jit(lambda v: task._tokenizing(v, IMAGES[2:], method="tokenize"))(variables_of(task)))
    # The last map: of 4x4 places those of pixels 4 to 7 are new.
    last, old = (x[:, 5:].reshape(2, 4, 4) for x in (edited, given))
    np.testing.assert_array_equal(last[:, :, :2], old[:, :, :2])
    assert (last[:, :, 2:] != old[:, :, 2:]).mean() > 0.5
    np.testing.assert_array_equal(edited[:, [1, 3]], given[:, [1, 3]])
    stays = [np.asarray(x[0]) for x in kept_tokens(mask, task._grids)]
    assert stays[0].tolist() == [False] and stays[1].tolist() == [True, False] * 2


@pytest.mark.long
def test_what_the_outputs_are():
    task, names = task_of(), frozenset({"scales", "token_losses", "original"})
    keys = jax.random.split(jax.random.key(0), 2)
    batch = {"image": IMAGES[:2], "label": LABELS[:2]}
    found = jax.jit(lambda v: task.outputs(v, batch, names, keys))(variables_of(task))
    assert found["original"].shape == (2, 8, 8, 3) and found["scales"].shape == (
        2,
        3,
        8,
        8,
        3,
    )
    assert found["token_losses"].shape == (2, 21)
    costs = task.sampling_costs(ScaleSampling())
    assert costs == {"tokens": 21, "passes": 3, "cache_bytes": 2 * 2 * 21 * 16 * 4}
    assert task.sampling_costs(ScaleSampling(guidance=0.0, cache=False)) == {"tokens": 21, "passes": 3}


def test_bad_input():
    task, label = task_of(), {"label": LABELS[:1]}
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(UserError, match="top_k is 13, and there are 12 tokens"):
        task.sample(variables_of(task), label, keys, ScaleSampling(top_k=13))
    told = task_of(label_drop=0.0)
    with pytest.raises(UserError, match="trained without a null class"):
        told.sampling_costs(ScaleSampling(guidance=1.5))
    alone, twice = (each.sampling_costs(ScaleSampling())["cache_bytes"] for each in (told, task))
    assert twice == 2 * alone  # the paper's guidance where there can be one
    with pytest.raises(UserError, match="6x8 pixels does not divide into 4x4 places"):
        kept_tokens(jnp.zeros((1, 6, 8), bool), task._grids)
    with pytest.raises(UserError, match="4 inputs are not those of the maps 1x2, 4x4"):
        model = build_var(grids=[(1, 1), (1, 2), (4, 4)], num_classes=0, vocab_size=4, latent_width=4, depth=1)
        jax.eval_shape(lambda: model.init(jax.random.key(0), LABELS[:1], jnp.zeros((1, 4, 4))))
    with pytest.raises(UserError, match="makes no maps from coarse to fine"):
        build(model=MODEL, data=DataInfo((8, 8), CLASSES), tokenizer={"name": "color_palette", "colors": 4})
    with pytest.raises(UserError, match="does not predict maps"):
        build(model={"name": "token_gpt"}, data=DataInfo((8, 8), CLASSES), tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="end at 4x4, and the latents of the image have 8x8"):
        build(model=MODEL, data=DataInfo((16, 16), CLASSES), tokenizer=TOKENIZER)
