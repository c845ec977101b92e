"""VQGAN, KL and tiny autoencoders and the discrete VAE as tokenizers; tests/parity has other libraries' beside them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import compvis_kl, compvis_vqgan, dall_e, diffusers_vq, hf_chameleon_vqvae, taesd
from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.checkpoints.source import model_shapes, nested, open_source
from vit_jax.errors import UserError
from vit_jax.models import dvae, kl_autoencoder, tiny_autoencoder, vqgan
from vit_jax.nn.init_shapes import init_shapes

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, size=(3, 8, 16, 3)).astype(np.float32)
LAYOUT = {"channels": 8, "multipliers": [1, 2], "num_blocks": 1, "attention_levels": [1], "norm_groups": 4}
VQ = {**LAYOUT, "num_codes": 12, "latent_channels": 4, "code_width": 3}
KL = {**LAYOUT, "latent_width": 2}
TINY = {"width": 4, "encoder_blocks": [1, 1], "decoder_blocks": [1, 1], "latent_width": 3}
DVAE = {"hidden": 4, "num_blocks": 1, "num_codes": 10, "code_width": 4}


def redrawn(model, size=(8, 16), seed=0):
    """Variables with every number drawn anew."""
    rng, images = np.random.default_rng(seed), jnp.zeros((1, *size, 3))
    shapes = init_shapes(lambda key: model.init(key, images, train=False), jax.random.key(0))
    return jax.tree.map(lambda x: (0.4 * rng.normal(size=x.shape)).astype(np.float32), shapes)


def count(model):
    images = jnp.zeros((1, 64, 64, 3))
    shapes = init_shapes(lambda key: model.init(key, images, train=False), jax.random.key(0))["params"]
    return {part: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree)) for part, tree in shapes.items()}


@pytest.mark.parametrize(
    ("model", "total"),
    [
        (vqgan.build("ldm_f4"), 55_322_782),
        (kl_autoencoder.build("f8"), 83_653_863),
        (kl_autoencoder.build("mar_f16"), 66_456_019),
    ],
)
def test_published_sizes(model, total):
    assert sum(count(model).values()) == total


def test_published_sizes_of_both_halves():
    assert count(dvae.build()) == {"encoder": 53_786_240, "decoder": 43_829_766}
    assert count(tiny_autoencoder.build("taef2")) == {"encoder": 1_338_528, "decoder": 1_338_499}


@functools.cache
def compiled(model, method, options):
    return jax.jit(lambda v, rngs, *a: model.apply(v, *a, method=method, rngs=rngs, **dict(options)))


def called(model, variables, *args, method=None, rngs=None, **options):
    """Compiled once for all tests that ask for the same."""
    return compiled(model, method, tuple(options.items()))(variables, rngs, *args)


@pytest.mark.long
@pytest.mark.parametrize("model", [vqgan.build(**VQ), vqgan.build(**VQ, quantizer="gumbel"), dvae.build(**DVAE)])
def test_tokens_are_those_that_a_call_gives_and_make_the_same_images(model):
    variables, images = redrawn(model), X
    found = called(model, variables, images)
    (grid,) = model.grids((8, 16))

    @jax.jit
    def through(v):
        tokens = model.apply(v, images, method="tokenize")
        embedded = model.apply(v, tokens, (grid,), method="embed")
        return tokens, embedded, model.apply(v, tokens, (grid,), method="detokenize")

    tokens, embedded, decoded = through(variables)
    np.testing.assert_array_equal(tokens, found["indices"])
    assert tokens.dtype == jnp.int32 and 1 < len(set(tokens.flatten().tolist())) <= model.vocab_size
    assert embedded.shape == (3, *grid, model.latent_width)
    np.testing.assert_allclose(decoded, found["reconstruction"], atol=1e-5)


CONTINUOUS = kl_autoencoder.build(**KL, scale=0.4, shift=0.1)


@pytest.mark.long
@pytest.mark.parametrize("model", [CONTINUOUS, tiny_autoencoder.build(**TINY)])
def test_continuous_latents_decode_as_a_call_does(model):
    variables = redrawn(model)
    found = called(model, variables, X)
    latents = called(model, variables, X, method="encode")
    np.testing.assert_array_equal(latents, found["latents"])
    assert latents.shape == (3, *model.grids((8, 16))[0], model.latent_width) and model.vocab_size is None
    np.testing.assert_allclose(called(model, variables, latents, method="decode"), found["reconstruction"], atol=1e-5)


@pytest.mark.long
def test_latents_are_drawn_in_training_from_moments_in_their_scale():
    model = CONTINUOUS
    variables = redrawn(model)
    variables["params"]["quant_conv"]["bias"] = np.float32([0, 0, 40, -90])
    moments = np.asarray(called(model, variables, X)["moments"])
    # Clipped to 20 and -30 before the scale comes to them.
    np.testing.assert_allclose(moments[..., 2:], np.broadcast_to([20, -30], (3, 4, 8, 2)) + 2 * np.log(0.4), rtol=1e-5)
    variables["params"]["quant_conv"]["bias"] = np.float32([0, 0, -90, -90])  # nothing is left to draw
    fixed = called(model, variables, X)["reconstruction"]
    trained = called(model, variables, X, train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(trained["reconstruction"], fixed, atol=1e-4)
    mean, log_variance = np.split(np.asarray(trained["moments"], np.float64), 2, axis=-1)
    mean, log_variance = mean / 0.4 + 0.1, log_variance - 2 * np.log(0.4)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum((1, 2, 3))
    np.testing.assert_allclose(trained["kl"], kl, rtol=1e-5)
    variables["params"]["quant_conv"]["bias"] = np.float32([0, 0, 2, 2])
    drawn = [called(model, variables, X, train=True, rngs={"dropout": jax.random.key(i)}) for i in range(2)]
    assert np.abs(drawn[0]["reconstruction"] - drawn[1]["reconstruction"]).max() > 0.01


@pytest.mark.long
def test_a_scale_is_measured_in_training():
    model = kl_autoencoder.build("f4", **KL)
    variables = redrawn(model)
    variables["latents"] = {"scale": np.float32(1)}
    variables["params"]["quant_conv"]["bias"] = np.float32([0, 0, -90, -90])
    means = called(model, variables, X)["latents"]
    _, state = called(model, variables, X, train=True, mutable="latents", rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(state["latents"]["scale"], 1 / np.std(means), rtol=1e-4)
    measured = {**variables, **state}
    found = called(model, measured, X)
    np.testing.assert_allclose(np.std(found["latents"]), 1, rtol=1e-3)
    np.testing.assert_allclose(
        called(model, measured, found["latents"], method="decode"), found["reconstruction"], atol=1e-5
    )


@pytest.mark.long
def test_gradients_reach_the_encoder_through_the_codes():
    model = dvae.build(**DVAE)

    def loss(params):
        found = model.apply({"params": params}, X, train=True, tau=0.5, rngs={"dropout": jax.random.key(0)})
        return jnp.square(found["reconstruction"] - X).mean()

    gradient = jax.jit(jax.grad(loss))(redrawn(model)["params"])["encoder"]
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient)) > 1e-6


@pytest.mark.parametrize("cosine", [False, True])
def test_maskgit_s_entropy_is_a_part_of_the_loss(cosine):
    model = vqgan.build(**VQ, entropy_weight=0.1, cosine=cosine)
    variables = redrawn(model)
    found = called(model, variables, X)
    codes, latents = np.float64(variables["params"]["quantizer"]["codebook"]["codes"]), np.float64(found["latents"])
    if cosine:  # both are compared on the unit sphere
        codes, latents = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (codes, latents))
    distances = np.square(latents[..., None, :] - codes).sum(-1).reshape(-1, 12)
    logits = -distances / 0.01
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    each = -(shares * np.log(np.maximum(shares, 1e-300))).sum(-1).mean()
    mean = shares.mean(0)
    expected = 1.25 * distances.min(-1).mean() / 3 + 0.1 * (each + (mean * np.log(mean + 1e-5)).sum())
    np.testing.assert_allclose(found["quantizer_loss"], expected, rtol=1e-4)


def test_logit_laplace_integrates_to_one():
    """Over values between 0 and 1, whatever its location and scale."""
    x = np.linspace(0, 1, 200_003)[1:-1]
    for location, log_scale in ((0.0, 0.0), (1.5, -1.0), (-0.7, 0.5)):
        density = np.exp(dvae.logit_laplace(x, location, log_scale))
        assert float(density.sum() * (x[1] - x[0])) == pytest.approx(1, abs=0.01)


CASES = {
    "vqgan": (vqgan, VQ, compvis_vqgan, "compvis"),
    "kl_autoencoder": (kl_autoencoder, {**KL, "scale": 1.0}, compvis_kl, "compvis"),
    "tiny_autoencoder": (tiny_autoencoder, TINY, taesd, "taesd"),
    "dvae": (dvae, DVAE, dall_e, "dall_e"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_published_file_is_a_task_that_shows_reconstructions(name, tmp_path):
    module, kwargs, family, library = CASES[name]
    if "norm_groups" in kwargs:  # of which their authors have 32
        kwargs = {**kwargs, "norm_groups": 32, "channels": 32}
    shapes = model_shapes(name, kwargs, (8, 16))[0]
    params = {key: (0.2 * RNG.normal(size=shape)).astype(np.float32) for key, shape in shapes.items()}
    tensors = family.name_map(kwargs, {}).write(params)
    write_safetensors(tmp_path / "model.safetensors", tensors, {})
    loaded = vit_jax.load(tmp_path / "model.safetensors", image_size=(8, 16))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, nested(params))
    assert loaded.model == module.build(**kwargs)
    found = loaded.outputs({"image": X}, ("reconstruction", "original"))
    assert 0 <= found["reconstruction"].min() < found["reconstruction"].max() <= 1
    np.testing.assert_allclose(found["original"], X / 2 + 0.5, atol=1e-6)
    pictures = loaded.task.answers(found, loaded.fields)
    assert pictures[0].dtype == np.uint8 and pictures[0].shape == (8, 16, 3)
    (written,) = [
        path for path in export(open_source(tmp_path / "model.safetensors"), tmp_path / "again", library)
        if path.suffix == ".safetensors"
    ]  # fmt: skip
    again = SafetensorsFile(written)
    assert again.shapes.keys() == tensors.keys()
    for key, x in tensors.items():
        np.testing.assert_array_equal(again[key], x, key)


def test_codes_that_are_looked_up_by_an_angle_have_no_place_in_other_files():
    metadata = {"model": {"name": "vqgan", "kwargs": {**VQ, "cosine": True}}, "preprocess": {"image_size": [8, 16]}}
    for family in (compvis_vqgan, diffusers_vq, hf_chameleon_vqvae):
        assert family.sidecar(metadata) is None


def test_the_first_stage_of_a_whole_model_has_its_scale_beside_it(tmp_path):
    kwargs = {**KL, "norm_groups": 32, "channels": 32}
    shapes = model_shapes("kl_autoencoder", {**kwargs, "scale": 1.0}, (8, 16))[0]
    params = {key: (0.2 * RNG.normal(size=shape)).astype(np.float32) for key, shape in shapes.items()}
    tensors = compvis_kl.name_map({**kwargs, "scale": 1.0}, {"prefix": "first_stage_model."}).write(params)
    others = {"model.diffusion_model.out.0.weight": np.zeros(3, np.float32), "betas": np.zeros(4, np.float32)}
    write_safetensors(tmp_path / "ldm.safetensors", {**tensors, **others, "scale_factor": np.float32(0.22)}, {})
    loaded = vit_jax.load(tmp_path / "ldm.safetensors")
    assert loaded.model.scale == 0.22
    jax.tree.map(np.testing.assert_array_equal, loaded.params, nested(params))


def test_sentences():
    with pytest.raises(UserError, match="There is no VQGAN named 'f17'"):
        vqgan.build("f17")
    with pytest.raises(UserError, match="Images of 9x8 pixels do not divide into places of 2"):
        vqgan.build(**VQ).grids((8, 9))
    with pytest.raises(UserError, match="There is no level 2 to attend at"):
        vqgan.build(**{**VQ, "attention_levels": [2]})
    with pytest.raises(UserError, match="8 channels cannot be normalised in 32 groups"):
        vqgan.build(**{**VQ, "norm_groups": 32})
    with pytest.raises(UserError, match="Gumbel's quantiser has no moving averages"):
        vqgan.build("gumbel_f8", decay=0.99)
    with pytest.raises(UserError, match="Gumbel's quantiser has no moving averages, restarts"):
        vqgan.build("gumbel_f8", restart_below=1.0)
    with pytest.raises(UserError, match="2 stages down do not go with 1 up"):
        tiny_autoencoder.build(**{**TINY, "decoder_blocks": [1]})
    with pytest.raises(UserError, match="Images of 12x8 pixels do not divide into places of 8"):
        dvae.build(**DVAE).grids((8, 12))
    with pytest.raises(UserError, match="6 channels do not divide by 4"):
        dvae.build(**{**DVAE, "hidden": 6})
    for model, kind in ((vqgan.build(**VQ, decoder=False), "decoder_input"), (dvae.build(**DVAE, decoder=False), "kl")):
        variables = redrawn(model)
        assert kind in jax.eval_shape(model.apply, variables, X)
        with pytest.raises(UserError, match="is an encoder alone, which makes no images"):
            model.apply(variables, jnp.zeros((1, 1, 1, model.latent_width)), method="decode")
