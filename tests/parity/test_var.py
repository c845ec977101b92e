"""VAR's tokenizer and transformers against what their authors' own code computed: tests skip where it is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.oracle import read
from tests.shared_golden import Golden, assert_close
from vit_jax.checkpoints.families import var_authors, var_tokenizer_authors
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import nested
from vit_jax.errors import UserError
from vit_jax.nn.decode import Sampling, kept
from vit_jax.tasks._image_tokens import unit_range
from vit_jax.tasks.var import NextScale, ScaleSampling

GOLDEN = Golden("var")
SCALES = GOLDEN.meta["patch_nums"]
GRIDS = tuple((side, side) for side in SCALES)


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def of_scales(name):
    return [GOLDEN[name.format(k)] for k in range(len(SCALES))]


@pytest.fixture(scope="module")
def tokenizer():
    ours = read(var_tokenizer_authors, GOLDEN.under("vae"), scales=SCALES)
    return ours.model, {"params": jax.tree.map(jnp.asarray, nested(ours.params))}


def test_the_tokenizers_images_and_indices(tokenizer):
    model, variables = tokenizer
    images = nhwc(GOLDEN["image"])

    @jax.jit
    def run(variables, images):
        latents = model.apply(variables, images, method="encode")
        tokens = model.apply(variables, images, method="tokenize")
        shown = model.apply(variables, tokens, GRIDS, method="detokenize_scales")
        sums = model.apply(variables, tokens, GRIDS, method=lambda m, *args: m.quantizer.sums(*args))
        return latents, tokens, shown, sums, model.apply(variables, tokens, GRIDS, method="inputs")

    latents, tokens, shown, sums, inputs = run(variables, images)
    assert model.grids((32, 32)) == GRIDS
    assert_close(latents, nhwc(GOLDEN["f"]))
    np.testing.assert_array_equal(tokens, np.concatenate(of_scales("quant/indices_{}"), 1))
    assert_close(inputs, GOLDEN["var_input"])
    for ours, theirs in zip(sums, of_scales("quant/f_hat_{}"), strict=True):
        assert_close(ours, nhwc(theirs))
    for ours, theirs in zip(shown, of_scales("reconstruction_{}"), strict=True):
        assert_close(jnp.clip(ours, -1, 1), nhwc(theirs))


def test_the_quantisers_loss_and_gradients(tokenizer):
    model, variables = tokenizer
    weight = nhwc(GOLDEN["train/weight_of_f_hat"])

    @jax.jit
    def run(params, latents):
        def loss(params, latents):
            out = model.quantizer.apply({"params": params}, latents, GRIDS)
            return out.loss + (weight * out.latents).sum(), out

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, latents)

    (_, out), (of_params, of_latents) = run(variables["params"]["quantizer"], nhwc(GOLDEN["f"]))
    assert_close(out.latents, nhwc(GOLDEN["train/f_hat"]))
    assert_close(out.loss, GOLDEN["train/vq_loss"])
    assert_close(of_latents, nhwc(GOLDEN["train/grad_f"]))
    assert_close(of_params["codebook"]["codes"], GOLDEN["train/grad_embedding"])
    assert_close(of_params["phi_1"]["kernel"], GOLDEN["train/grad_phi_1"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    ("tag", "phis", "cosine"), [("znorm", 4, True), ("shared1", 1, False), ("nonshared", 5, False)]
)
def test_other_quantisers(tag, phis, cosine):
    """Each with its own parameters beside the encoder and decoder of the first."""
    tensors = {name: x for name, x in GOLDEN.under("vae").items() if not name.startswith("quantize.")}
    ours = read(var_tokenizer_authors, tensors | GOLDEN.under(f"{tag}_vae"), scales=SCALES, cosine=cosine)
    assert ours.kwargs["phis"] == phis
    params = nested(ours.params)["quantizer"]

    @jax.jit
    def run(params, latents):
        tokens = ours.model.quantizer.apply({"params": params}, latents, GRIDS, method="tokenize")
        return tokens, ours.model.quantizer.apply({"params": params}, tokens, GRIDS, method="sums")

    tokens, sums = run(params, nhwc(GOLDEN["f"]))
    np.testing.assert_array_equal(tokens, np.concatenate(of_scales(tag + "/indices_{}"), 1))
    for summed, theirs in zip(sums, of_scales(tag + "/f_hat_{}"), strict=True):
        assert_close(summed, nhwc(theirs))


LABELS = np.array(GOLDEN.meta["labels"])


def model_of(tag, **overrides):
    prefix = overrides.pop("prefix", "")
    tensors = {prefix + name: x for name, x in GOLDEN.under(tag).items()}
    ours = read(var_authors, tensors, grids=[list(grid) for grid in GRIDS], num_heads=3, **overrides)
    return ours, jax.tree.map(jnp.asarray, nested(ours.params))


@pytest.mark.parametrize("tag", ["var", "var_shared", "var_plain"])
def test_the_logits_of_the_transformers(tag):
    ours, params = model_of(tag)
    assert ours.kwargs.get("shared_modulation", False) == (tag == "var_shared")
    assert ours.kwargs.get("normalized_attention", True) == (tag != "var_plain")

    @jax.jit
    def run(params, labels):
        return ours.model.apply({"params": params}, labels, GOLDEN["var_input"])

    assert_close(run(params, LABELS), GOLDEN[f"{tag}_out/logits"])
    if tag == "var":
        assert_close(run(params, np.full(2, 10)), GOLDEN["var_out/logits_unconditional"])


@pytest.mark.parametrize("tag", ["var", "var_shared", "var_plain"])
def test_what_is_drawn_greedily_with_a_cache(tokenizer, tag):
    """The authors' sampler with guidance 1.5 and the likeliest token of each place."""
    made, tokenizing = tokenizer
    ours, params = model_of(tag)
    task = NextScale(ours.model, {}, made, (32, 32), tuple("0123456789"))
    variables = {"params": params | {"tokenizer": tokenizing["params"]}, "model_state": {}}
    settings = ScaleSampling(guidance=1.5, temperature=0.0)

    @jax.jit
    def run(variables, labels):
        keys = jax.random.split(jax.random.key(0), 2)
        tokens, summed = task._drawn(variables, {"label": labels}, keys, settings)
        full = [
            ours.model.apply({"params": params}, of, made.apply(tokenizing, tokens, GRIDS, method="inputs"))
            for of in (labels, jnp.full(2, 10))
        ]
        return tokens, unit_range(made.apply(tokenizing, summed, method="decode")), full

    tokens, images, (with_class, without) = run(variables, LABELS)
    np.testing.assert_array_equal(tokens, np.concatenate(of_scales(tag + "_out/greedy_indices_{}"), 1))
    assert_close(images, nhwc(GOLDEN[f"{tag}_out/greedy_image"]))
    if tag == "var":
        t = np.repeat(1.5 * np.arange(5) / 4, [side**2 for side in SCALES])[:, None]
        guided = (1 + t) * with_class - t * without
        assert_close(guided, np.concatenate(of_scales("var_out/greedy_logits_{}"), 1))


@pytest.mark.parametrize(("top_k", "top_p"), [(5, None), (None, 0.8), (9, 0.9)])
def test_which_tokens_can_be_drawn(top_k, top_p):
    alive = np.isfinite(kept(GOLDEN["filter/logits"], Sampling(1.0, top_k, top_p)))
    np.testing.assert_array_equal(alive, GOLDEN[f"filter/alive_k{top_k or 0}_p{top_p or 0.0}"])


def test_names_with_what_training_puts_before_them():
    """Files of the authors' training: wrappers before names, constants and counts beside the parameters."""
    ours, params = model_of("var", prefix="var_wo_ddp.")
    plain, same = model_of("var")
    assert ours.kwargs == plain.kwargs
    jax.tree.map(np.testing.assert_array_equal, params, same)
    wrapped = {f"vae_local.{name}": x for name, x in GOLDEN.under("vae").items()}
    assert read(var_tokenizer_authors, wrapped, scales=SCALES).published.layout["prefix"] == "vae_local."

    both = {**{f"var_wo_ddp.{name}": x for name, x in GOLDEN.under("var").items()}, **wrapped}
    both |= {"var_wo_ddp.lvl_1L": np.zeros((1, 103)), "var_wo_ddp.blocks.0.attn.zero_k_bias": np.zeros(48)}
    both |= {"vae_local.quantize.ema_vocab_hit_SV": np.zeros((5, 64))}
    shapes = {name: x.shape for name, x in both.items()}
    published = var_authors.describe(shapes, Sidecar(JsonObject({"patch_nums": SCALES})))
    assert published.kwargs == {**ours.kwargs, "grids": [[side, side] for side in SCALES]}
    assert published.task["kwargs"]["tokenizer"]["scales"] == SCALES
    assert published.preprocess["image_size"] == [32, 32]
    assert var_tokenizer_authors.describe(shapes, Sidecar()) is None
    names = var_authors.name_map(published.kwargs, published.layout)
    names.check(both, "FILE")
    assert {name.split("/")[0] for entry in names.entries for name in entry.ours} >= {"tokenizer", "block_00"}
    counted = {**GOLDEN.under("vae"), "quantize.ema_vocab_hit_SV": np.zeros((5, 64))}
    published = var_tokenizer_authors.describe({name: x.shape for name, x in counted.items()}, Sidecar())
    var_tokenizer_authors.name_map(published.kwargs, published.layout).check(counted, "FILE")
    with pytest.raises(UserError, match="103 tokens, which are not those of 256"):
        var_authors.name_map(
            var_authors.describe({n: x.shape for n, x in GOLDEN.under("var").items()}, Sidecar()).kwargs, {}
        )
