"""The Transformer of 2017 beside `torch.nn.Transformer`, post-norm as in the paper and pre-norm, all parameters random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity.oracle import TOLERANCE
from vit_jax.models.transformer import build
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.sinusoids import sinusoids

B, S, T, V, D, H = 2, 7, 5, 13, 24, 3
rng = np.random.default_rng(0)
SOURCE, TARGET = rng.integers(0, V, (B, S)), rng.integers(0, V, (B, T))
MASK = np.arange(S) < np.array([[7], [4]])


def attention(weights, name):
    """q, k and v lie in one matrix there."""
    heads = (H, D // H)
    found = {}
    kernels, biases = (np.split(weights[f"{name}.in_proj_{kind}"], 3) for kind in ("weight", "bias"))
    for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
        found[part] = {"kernel": kernel.T.reshape(D, *heads), "bias": bias.reshape(heads)}
    out = {"kernel": weights[f"{name}.out_proj.weight"].T.reshape(*heads, D), "bias": weights[f"{name}.out_proj.bias"]}
    return {**found, "out": out}


def norm(weights, name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def block(weights, name, crosses):
    dense = {
        ours: {"kernel": weights[f"{name}.{theirs}.weight"].T, "bias": weights[f"{name}.{theirs}.bias"]}
        for ours, theirs in (("fc1", "linear1"), ("fc2", "linear2"))
    }
    found = {
        "attention": attention(weights, f"{name}.self_attn"),
        "mlp": dense,
        "norm1": norm(weights, f"{name}.norm1"),
    }
    found["norm2"] = norm(weights, f"{name}.norm{3 if crosses else 2}")
    if crosses:
        found |= {"cross": attention(weights, f"{name}.multihead_attn"), "norm_cross": norm(weights, f"{name}.norm2")}
    return found


@pytest.mark.parametrize("order", ["post", "pre"])
def test_outputs(order):
    torch.manual_seed(0)
    theirs = torch.nn.Transformer(D, H, 2, 2, 40, 0.0, "relu", batch_first=True, norm_first=order == "pre").eval()
    if order == "post":  # PyTorch has a norm after the last block here too, which the paper has not
        theirs.encoder.norm = theirs.decoder.norm = None
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    text = {
        "embedding": rng.normal(size=(V, D)).astype(np.float32) * 0.3,
        **{
            tower: {f"block_{i:02d}": block(weights, f"{tower}.layers.{i}", tower == "decoder") for i in range(2)}
            for tower in ("encoder", "decoder")
        },
    }
    if order == "pre":
        text |= {f"norm_{tower}": norm(weights, f"{tower}.norm") for tower in ("encoder", "decoder")}
    sizes = dict(width=D, encoder_depth=2, decoder_depth=2, mlp_dim=40, num_heads=H, norm=order, norm_epsilon=1e-5)
    model = build(vocab_size=V, max_length=16, **sizes)
    shapes = init_shapes(lambda: model.init(jax.random.key(0), SOURCE, TARGET)["params"])
    params = {"text": jax.tree.map(jnp.asarray, text)}
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, params)
    assert sum(x.size for x in jax.tree.leaves(params)) - V * D == sum(w.size for w in weights.values())

    ours = jax.jit(lambda p: model.apply({"params": p}, SOURCE, TARGET, MASK))(params)
    table = sinusoids(16, D)
    source, target = (
        torch.tensor(text["embedding"][ids] * np.float32(np.sqrt(D)) + table[: ids.shape[1]])
        for ids in (SOURCE, TARGET)
    )
    hidden = torch.tensor(~MASK)
    with torch.no_grad():
        causal = torch.nn.Transformer.generate_square_subsequent_mask(T)
        call = dict(tgt_mask=causal, src_key_padding_mask=hidden, memory_key_padding_mask=hidden)
        expected = theirs(source, target, **call).numpy()
    np.testing.assert_allclose(ours["tokens"], expected, atol=TOLERANCE * np.abs(expected).max())
    logits = expected @ text["embedding"].T
    np.testing.assert_allclose(ours["logits"], logits, atol=TOLERANCE * np.abs(logits).max())
