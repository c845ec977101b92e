"""GPT: its published sizes, what it computes, and its initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models.gpt import VARIANTS, build
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.text_trunk import TextTrunk

TINY = dict(vocab_size=11, width=12, depth=2, num_heads=2, max_length=8)
IDS = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 1]], np.int32)


def shapes(**kwargs):
    return init_shapes(lambda: build(**kwargs).init(jax.random.key(0), IDS))["params"]


def parameters(variant, vocab_size):
    """How many, from one block and the depth."""

    def count(depth):
        return sum(leaf.size for leaf in jax.tree.leaves(shapes(variant=variant, vocab_size=vocab_size, depth=depth)))

    return count(1) + (VARIANTS[variant].depth - 1) * (count(2) - count(1))


@pytest.mark.parametrize(
    "variant, vocab_size, count",
    [
        ("gpt1", 40478, 116_534_784),
        ("gpt2-small", 50257, 124_439_808),
        ("gpt2-medium", 50257, 354_823_168),
        ("gpt2-large", 50257, 774_030_080),
        ("gpt2-xl", 50257, 1_557_611_200),
    ],
)
def test_parameter_counts_are_those_of_the_published_files(variant, vocab_size, count):
    assert parameters(variant, vocab_size) == count


@pytest.mark.long
def test_the_sizes_of_gpt3_have_the_parameters_of_table_d1():
    printed = (125, 356, 760, 1320, 2650, 6660, 12_850, 174_600)  # millions
    variants = [name for name in VARIANTS if name.startswith("gpt3")]
    for variant, millions in zip(variants, printed, strict=True):
        assert parameters(variant, 50257) == pytest.approx(1e6 * millions, rel=0.005)
        assert VARIANTS[variant].width % VARIANTS[variant].num_heads == 0


def numpy_gpt(params, ids, post):
    """The last logits in float64, written once more without any of our modules."""

    def norm(x, p):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def attention(x, p):
        q, k, v = (np.einsum("btd,dhe->bhte", x, p[n]["kernel"]) + p[n]["bias"][:, None] for n in
                   ("query", "key", "value"))  # fmt: skip
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones(scores.shape[2:], bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ v
        return np.einsum("bhte,hed->btd", mixed, p["out"]["kernel"]) + p["out"]["bias"]

    def mlp(x, p):
        return gelu(x @ p["fc1"]["kernel"] + p["fc1"]["bias"]) @ p["fc2"]["kernel"] + p["fc2"]["bias"]

    text = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["text"])
    x = text["embedding"][ids] + text["pos_embedding"][: ids.shape[1]]
    for name in ("block_00", "block_01"):
        p = text[name]
        if post:
            x = norm(x + attention(x, p["attention"]), p["norm1"])
            x = norm(x + mlp(x, p["mlp"]), p["norm2"])
        else:
            x = x + attention(norm(x, p["norm1"]), p["attention"])
            x = x + mlp(norm(x, p["norm2"]), p["mlp"])
    return (x if post else norm(x, text["norm"])) @ text["embedding"].T


@pytest.mark.parametrize("variant", ["gpt1", "gpt2-small"])
def test_logits_are_those_of_float64_numpy(variant):
    model = build(variant=variant, **TINY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes(variant=variant, **TINY)
    )
    mask = np.array([[1] * 6, [1, 1, 1, 0, 0, 0]])
    out = jax.jit(model.apply)({"params": params}, IDS, token_mask=mask)
    want = numpy_gpt(params, IDS, post=variant == "gpt1")
    np.testing.assert_allclose(out["logits"][0], want[0], atol=2e-5 * np.abs(want).max())
    np.testing.assert_allclose(out["logits"][1, :3], want[1, :3], atol=2e-5 * np.abs(want).max())
    # Features are those of the last token that there is.
    np.testing.assert_array_equal(out["features"], np.stack([out["tokens"][0, 5], out["tokens"][1, 2]]))


@pytest.mark.long
def test_initial_values_are_a_decision_of_the_variant():
    for variant, scale, stddev in (("gpt1", 1.0, 0.02), ("gpt2-small", 0.5, 0.02), ("gpt2-small", 0.5, 0.1)):
        model = build(variant=variant, init_stddev=stddev, **TINY | {"width": 64})
        fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes(variant=variant, **TINY | {"width": 64}))
        drawn = model.redrawn(fresh, jax.random.key(0))["text"]["block_00"]
        assert float(drawn["mlp"]["fc2"]["kernel"].std()) == pytest.approx(stddev * scale, rel=0.05)
        assert float(drawn["mlp"]["fc1"]["kernel"].std()) == pytest.approx(stddev, rel=0.05)


def test_flops_count_blocks_and_logits():
    model = build(**TINY)
    tokens, width, hidden, vocab = 6, 12, 48, 11
    block = 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens**2 * width
    assert model.text_flops(tokens) == 2 * block + 2 * tokens * width * vocab
    assert model.layers()[0][:2] == ("text/embedding", "text/pos_embedding") and len(model.layers()) == 3


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(variant="gpt2-smal", vocab_size=11), "no GPT 'gpt2-smal'.*gpt2-small"),
        (dict(vocab_size=11, widht=3), "widht.*width"),
        (dict(vocab_size=11, dtype="float16"), "cannot compute"),
    ],
)
def test_what_does_not_exist_is_refused(kwargs, message):
    with pytest.raises(UserError, match=message):
        build(**kwargs)


def test_a_trunk_that_sees_ahead_is_no_language_model():
    model = build(**TINY)
    with pytest.raises(UserError, match="must not see"):
        model.clone(text=TextTrunk(11, 8, 12, 2, model.text.style))
