"""HART's Transformers against what its authors' code computed, with every parameter random."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.shared_golden import Golden, assert_close
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import hart_authors
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import model_shapes, nested, open_source
from vit_jax.errors import UserError
from vit_jax.models import mar
from vit_jax.models.hart import build
from vit_jax.models.hart_sampling import Codes, Drawing, draw
from vit_jax.models.var_tokenizer import SCALES
from vit_jax.nn.flops import product_flops
from vit_jax.nn.hybrid_vq import HybridQuantizer
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.vq import Codebook

GRIDS = tuple((side, side) for side in (1, 2, 3, 5, 8))
KWARGS = {
    "grids": GRIDS, "vocab_size": 64, "latent_width": 8, "text_width": 20, "text_length": 6, "width": 48, "depth": 2,
    "num_heads": 3, "head_width": 24, "head_depth": 2,
}  # fmt: skip
VARIANTS = {
    "t2i_llama": {**KWARGS, "mlp_dim": 256},
    "t2i_adaln": {**KWARGS, "mlp_dim": 192, "adaptive": True, "step_features": False, "text_norm": False},
}
QUANTIZER = HybridQuantizer(Codebook(64, 8), phis=4)


@functools.cache
def golden():
    return Golden("hart")


@functools.cache
def quantizer_params():
    theirs = golden().under("quantiser")
    phis = {
        f"phi_{i}": {
            "kernel": jnp.asarray(theirs[f"quant_resi.qresi_ls.{i}.weight"].transpose(2, 3, 1, 0)),
            "bias": jnp.asarray(theirs[f"quant_resi.qresi_ls.{i}.bias"]),
        }
        for i in range(4)
    }
    return {"params": {"codebook": {"codes": jnp.asarray(theirs["embedding.weight"])}, **phis}}


@functools.cache
def read(name):
    """A model and its parameters by the authors' names, written back."""
    kwargs, tensors = VARIANTS[name], golden().under(name)
    names = hart_authors.name_map(kwargs, {})
    names.check(tensors, name)
    ours = dict(names.read(tensors.__getitem__, model_shapes("hart", kwargs, None)[0], name))
    for key, tensor in names.write(ours).items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)
    return build(**kwargs), {"params": jax.tree.map(jnp.asarray, nested(ours))}


@pytest.mark.parametrize("name", VARIANTS)
def test_training_is_the_authors(name):
    model, variables = read(name)
    stored = golden()
    rows, columns = stored["train/kept_rows"], stored["train/kept_columns"]
    kept = columns.reshape(2, -1)
    assert (rows.reshape(2, -1) == [[0], [1]]).all()
    # Those that are kept are the last of the orders.
    np.testing.assert_array_equal(np.sort(stored["train/orders"][:, 32:], axis=1), kept)
    codes = quantizer_params()["params"]["codebook"]["codes"]

    @jax.jit
    def run(variables, codes):
        logits, hidden = model.apply(
            variables, stored["context/embeddings"], stored["context/position_ids"], stored["transformer_input"], kept
        )
        drawn = codes[logits[:, -32:].argmax(-1)]
        return logits, drawn, model.apply(variables, hidden, drawn, method="conditions")

    logits, drawn, conditions = run(variables, codes)
    assert_close(logits, stored[f"{name}_out/logits"])
    assert_close(conditions, stored[f"{name}_out/diffusion_condition"])
    last = np.take_along_axis(stored["encode/last_rest"], kept[..., None], axis=1)
    assert_close(last - drawn, stored[f"{name}_out/diffusion_target"])


_HOW = ("iters1_residual", "iters1_discrete", "iters3_residual")
_FAST = {("t2i_llama", "iters1_residual"), ("t2i_adaln", "iters3_residual")}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=() if (name, how) in _FAST else pytest.mark.long)
        for name in VARIANTS
        for how in _HOW
    ],
)
def test_images_are_the_authors(name, how):
    model, variables = read(name)
    stored, key = golden(), f"{name}_greedy_{how}"
    passes, head_steps = int(how[5]), 8 if how.endswith("residual") else 0
    orders = stored["train/orders"]
    found = {}  # indices by scale and pass, in the order in which they are drawn
    noise = noise_of(key, orders, passes) if head_steps else None
    quantizer = quantizer_params()

    @jax.jit
    def run(variables, quantizer):
        def added(summed, indices, scale):
            summed = summed + QUANTIZER.apply(quantizer, indices, scale, GRIDS, method="enlarged")
            seen = QUANTIZER.apply(quantizer, summed, GRIDS[scale + 1], method="shrunk")
            return summed, seen.reshape(2, -1, 8)

        def pick(logits, scale, i):
            found[scale, i] = logits, logits.argmax(-1)
            return found[scale, i][1]

        latents = draw(
            model, variables, Codes(added, lambda x: quantizer["params"]["codebook"]["codes"][x]),
            jnp.asarray(stored["context/embeddings"]), jnp.zeros((2, 6, 20)), jnp.asarray(stored["context/position_ids"]),
            jnp.asarray(orders), pick, lambda i, n, step: noise[i][0 if step is None else 1 + step],
            Drawing(golden().meta["cfg"], passes, head_steps),
        )  # fmt: skip
        return latents, dict(found)

    latents, drawn = run(variables, quantizer)
    drawn = list(drawn.values())
    for k, (logits, indices) in enumerate(drawn):
        if f"{key}/logits_{k}" not in stored.arrays:
            continue
        if (k >= 4 and passes == 1) or k >= 4:
            place = np.argsort(chosen(orders, passes)[k - 4], axis=1)
            logits = np.take_along_axis(np.asarray(logits), place[..., None], axis=1)
            indices = np.take_along_axis(np.asarray(indices), place, axis=1)
        assert_close(logits, stored[f"{key}/logits_{k}"])
        np.testing.assert_array_equal(indices, stored[f"{key}/indices_{k}"])
    assert_close(latents.transpose(0, 3, 1, 2), stored[f"{key}/f_hat"])


def chosen(orders, passes):
    """The places of each pass."""
    ends = [0, 64] if passes == 1 else [0, 32, 55, 64]
    return [orders[:, a:b] for a, b in itertools.pairwise(ends)][::-1]


def noise_of(key, orders, passes):
    """Stored noise as [1 + steps, B, n, C] of each pass: theirs is of the places in the order of the image, of the
    conditional half and then of the other."""
    shapes, flat = golden().meta[f"{key}_noise_shapes"], golden()[f"{key}/noise"]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    arrays = [x.reshape(shape) for x, shape in zip(np.split(flat, ends), shapes, strict=True)]
    found = []
    for places in chosen(orders, passes):
        count, rank = places.shape[1], np.argsort(np.argsort(places, axis=1), axis=1)
        own, arrays = arrays[:9], arrays[9:]
        ours = [np.take_along_axis(x[: 2 * count].reshape(2, count, 8), rank[..., None], axis=1) for x in own]
        found.append(jnp.asarray(np.stack(ours)))
    assert not arrays
    return found


def test_files_of_the_authors_are_recognised():
    for name, kwargs in VARIANTS.items():
        shapes = {key: tensor.shape for key, tensor in golden().under(name).items()}
        beside = {"lvl_1L": (1, 108), "attn_bias_for_masking": (1, 1, 108, 108), "blocks.1.attn.zero_k_bias": (48,)}
        config = JsonObject({"patch_nums": [1, 2, 3, 5, 8], "context_token": 6}, "config.json")
        published = hart_authors.describe(shapes | beside, Sidecar(config=config))
        assert build(**published.kwargs) == build(**kwargs)
        hart_authors.name_map(published.kwargs, published.layout).check(shapes | beside, "file")
        [[_, values]] = hart_authors.sidecar({"model": {"name": "hart", "kwargs": published.kwargs}}).items()
        assert (values["patch_nums"], values["context_token"]) == ([1, 2, 3, 5, 8], 6)
        alone = hart_authors.describe(shapes, Sidecar()).kwargs
        assert alone["grids"][-1] == [64, 64] and alone["text_length"] == 300
    assert hart_authors.describe({"context_embed.weight": (3, 3)}, Sidecar()) is None


def test_size_is_the_published_ones():
    """0.7B: 24 blocks of 1,536, with a head of 36,585,536."""
    sides = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
    model = build(
        grids=[(side, side) for side in sides], vocab_size=4096, latent_width=32, text_width=1536, text_length=300
    )
    shapes = init_shapes(functools.partial(model.init, train=False), jax.random.key(0), *model.example_inputs(None))
    params = shapes["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params["residual"])) == 36_585_536
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert 0.7e9 < count < 0.75e9, count


def test_what_cannot_be_built_is_said():
    with pytest.raises(UserError, match="first scale is one token"):
        build(**{**KWARGS, "grids": ((2, 2), (4, 4))})
    with pytest.raises(UserError, match="no 5 heads whose width 4 divides"):
        build(**{**KWARGS, "num_heads": 5})
    with pytest.raises(UserError, match="of classes or of texts"):
        build(**{**KWARGS, "text_width": 0})


def test_a_file_there_and_back(tmp_path):
    """Read with its config.json, written with one, and bit for bit the same."""
    tensors = golden().under("t2i_adaln")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"patch_nums": [1, 2, 3, 5, 8], "context_token": 6}')
    export(open_source(tmp_path / "model.safetensors"), tmp_path / "out", "hart")
    back = load_file(tmp_path / "out/model.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    again = open_source(tmp_path / "out/model.safetensors").metadata["model"]
    assert build(**again["kwargs"]) == build(**VARIANTS["t2i_adaln"])


def test_what_a_sample_takes_beside_mar():
    """By arithmetic, guided, at 256 pixels: the paper counts 10.7 times fewer multiplications than MAR-L's 64 passes."""
    large = mar.build("l", grid=[16, 16], channels=16, num_classes=1000)
    masked, head = mar.masked_counts(256, 64), product_flops(1, 1280, (5 * 8 + 2) * 1280 + 3 * 16)
    theirs = 2 * sum(large.flops(256 - before, 0) for before in masked[:-1]) + 2 * 256 * 100 * head
    assert theirs / 2e12 == pytest.approx(16.4, abs=0.05)
    for depth, total, share in ((24, 1.14, 0.121), (30, 2.06, 0.067)):
        grids = [(side, side) for side in SCALES[16]]
        model = build(
            grids=grids,
            vocab_size=4096,
            latent_width=32,
            num_classes=1000,
            width=64 * depth,
            depth=depth,
            adaptive=True,
        )
        whole, trunk = 2 * model.flops(256, 256 * 8), 2 * model.flops(256, 0)
        assert whole / 2e12 == pytest.approx(total, abs=0.01) and 1 - trunk / whole == pytest.approx(share, abs=0.001)
        assert 7 < theirs / whole < 15
