"""VAR's tokenizer and transformers against what their authors' own code computed: tests skip where it is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.oracle import read
from tests.shared_golden import Golden, assert_close
from vit_jax.checkpoints.families import var_tokenizer_authors
from vit_jax.checkpoints.source import nested

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
