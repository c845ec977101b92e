"""Autoencoders of VQGAN, of latent diffusion and TAESD against diffusers and transformers, every parameter drawn anew."""

import json

import jax
import numpy as np
import pytest
import torch

import tests.torchvision_ops  # noqa: F401  before diffusers
from tests.parity.oracle import Ours, assert_close, images, nested_params, read, read_folder, to_torch, write
from vit_jax.checkpoints.families import (
    compvis_kl,
    compvis_vqgan,
    diffusers_kl,
    diffusers_tiny,
    diffusers_vq,
    hf_chameleon_vqvae,
    taesd,
)
from vit_jax.checkpoints.parts.autoencoder import assumed_scale
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models.kl_autoencoder import VARIANTS

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

RNG = np.random.default_rng(0)
X = images(16, 24, batch=2)
# Three levels: one without attention, one that widens, one that does not.
SIZES = {"block_out_channels": (8, 16, 16), "layers_per_block": 2, "norm_num_groups": 4, "sample_size": 16}
DOWN = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D")
UP = ("UpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D")


def redrawn(model):
    """Norms far from 1 and 0, and a stream that neither dies nor explodes."""
    with torch.no_grad():
        for name, x in model.named_parameters():
            drawn = RNG.normal(size=tuple(x.shape))
            if "norm" in name:
                drawn = 0.3 * drawn + name.endswith("weight")
            elif x.ndim > 1 and "embed" not in name:
                drawn = drawn / np.prod(x.shape[1:]) ** 0.5
            else:
                drawn = 0.3 * drawn
            x.copy_(torch.from_numpy(drawn.astype(np.float32)))
    return model.eval()


def tensors_of(model):
    return {name: np.ascontiguousarray(x.numpy()) for name, x in model.state_dict().items()}


def config_of(model):
    return json.loads(json.dumps(dict(model.config)))


def call(ours: Ours, *args, method=None):
    apply = jax.jit(lambda p, *a: ours.model.apply({"params": p}, *a, method=method))
    return jax.tree.map(np.asarray, apply(nested_params(ours), *args))


def channels_last(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def read_again(ours: Ours, folder, cls):
    """The folder as we write it, read by the other library."""
    write(ours, folder, ours.metadata(labels=()))
    (folder / "model.safetensors").rename(folder / "diffusion_pytorch_model.safetensors")
    return cls.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def vq():
    torch.manual_seed(0)
    config = {"down_block_types": DOWN, "up_block_types": UP, "num_vq_embeddings": 40, "vq_embed_dim": 6}
    return redrawn(diffusers.VQModel(**SIZES, **config, latent_channels=5))


def test_vq_model(vq, tmp_path):
    ours = read(diffusers_vq, tensors_of(vq), Sidecar(config=config_of(vq)))
    assert ours.kwargs["attention_levels"] == [1] and ours.kwargs["decoder_attention_levels"] == [0]
    with torch.no_grad():
        latents = vq.encode(to_torch(X)).latents
        quantized, loss, (_, _, indices) = vq.quantize(latents)
        decoded = vq.decode(latents).sample
        between = vq.decode(latents, force_not_quantize=True).sample
    found = call(ours, X)
    assert_close(found["latents"], channels_last(latents), "VQModel latents")
    np.testing.assert_array_equal(found["indices"].reshape(-1), indices.numpy())
    assert len(set(indices.tolist())) > 10
    assert_close(found["reconstruction"], channels_last(decoded), "VQModel images")
    assert_close(found["quantizer_loss"], loss.numpy(), "VQModel loss, with beta where taming has it")
    assert_close(call(ours, channels_last(latents), method="decode"), channels_last(between), "VQModel, not quantised")
    grids = ours.model.grids((16, 24))
    tokens = call(ours, X, method="tokenize")
    np.testing.assert_array_equal(tokens, found["indices"])
    embedded = jax.tree.map(np.asarray, call_embed(ours, tokens, grids))
    assert_close(embedded, channels_last(quantized), "VQModel codes")
    again = read_again(ours, tmp_path, diffusers.VQModel)
    with torch.no_grad():
        assert_close(channels_last(again(to_torch(X)).sample), channels_last(decoded), "VQModel, written again")


def call_embed(ours, tokens, grids):
    codes = ours.params["quantizer/codebook/codes"]
    return ours.model.apply({"params": {"quantizer": {"codebook": {"codes": codes}}}}, tokens, grids, method="embed")


def compvis_names(name: str, levels: int = 3) -> str:
    """What the authors call what diffusers calls so."""
    for theirs, ours in (
        ("mid_block.resnets.0.", "mid.block_1."), ("mid_block.resnets.1.", "mid.block_2."),
        ("mid_block.attentions.0.", "mid.attn_1."), ("conv_norm_out", "norm_out"), ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"), ("resnets", "block"), ("attentions", "attn"), ("conv_shortcut", "nin_shortcut"),
        ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"),
    ):  # fmt: skip
        name = name.replace(theirs, ours)
    for i in range(levels):
        name = name.replace(f"down_blocks.{i}", f"down.{i}").replace(f"up_blocks.{i}", f"UP.{levels - 1 - i}")
    return name.replace("UP.", "up.")


def in_compvis_names(model, prefix=""):
    """The tensors as the authors keep them: projections of attention are 1x1 convolutions, of latents too."""
    found = {}
    for name, x in tensors_of(model).items():
        attention = any(part in name for part in ("to_q", "to_k", "to_v", "to_out")) and x.ndim == 2
        found[prefix + compvis_names(name)] = x[:, :, None, None] if attention else x
    return found


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_vqgan_under_its_authors_names(vq, prefix):
    tensors = in_compvis_names(vq, prefix)
    rest = {"loss.discriminator.main.0.weight": np.zeros((4, 3, 4, 4), np.float32)} if not prefix else {}
    theirs = read(diffusers_vq, tensors_of(vq), Sidecar(config=config_of(vq)))
    # 32 groups, which shapes do not say, are what all published ones have.
    ours = read(compvis_vqgan, tensors, norm_groups=4)
    assert ours.params.keys() == theirs.params.keys()
    for name, x in ours.params.items():
        np.testing.assert_array_equal(x, theirs.params[name], name)
    assert ours.model == theirs.model
    ours.names.check({**tensors, **rest}, "FILE")
    wanted = {"model.diffusion_model.out.0.weight", "betas", "cond_stage_model.transformer.x"} if prefix else set()
    ours.names.check({*tensors, *wanted}, "FILE")


def test_gumbel_s_codes_under_their_authors_names(vq):
    """The logits are a 1x1 convolution of what `quant_conv` gives, and the most probable code is looked up."""
    tensors = in_compvis_names(vq)
    del tensors["quantize.embedding.weight"]
    tensors["quantize.proj.weight"] = RNG.normal(size=(40, 6, 1, 1)).astype(np.float32)
    tensors["quantize.proj.bias"] = RNG.normal(size=40).astype(np.float32)
    tensors["quantize.embed.weight"] = RNG.normal(size=(40, 6)).astype(np.float32)
    ours = read(compvis_vqgan, tensors, norm_groups=4)
    found = call(ours, X)
    with torch.no_grad():
        latents = vq.encode(to_torch(X)).latents
        logits = torch.nn.functional.conv2d(
            latents, *(torch.from_numpy(tensors[f"quantize.proj.{x}"]) for x in ("weight", "bias"))
        )
        indices = logits.argmax(1)
        codes = torch.from_numpy(tensors["quantize.embed.weight"])[indices].permute(0, 3, 1, 2)
        decoded = vq.decode(codes, force_not_quantize=True).sample
        shares = torch.softmax(logits, dim=1)
        loss = 5e-4 * (shares * torch.log(shares * 40 + 1e-10)).sum(1).mean()
    np.testing.assert_array_equal(found["indices"], indices.reshape(2, -1).numpy())
    assert_close(found["reconstruction"], channels_last(decoded), "Gumbel's VQGAN")
    np.testing.assert_allclose(found["quantizer_loss"], loss, rtol=1e-5)


KL = {"down_block_types": DOWN, "up_block_types": UP, "latent_channels": 3}


@pytest.fixture(scope="module")
def kl():
    torch.manual_seed(0)
    return redrawn(diffusers.AutoencoderKL(**SIZES, **KL, scaling_factor=0.4))


def test_kl_autoencoder(kl, tmp_path):
    ours = read(diffusers_kl, tensors_of(kl), Sidecar(config=config_of(kl)))
    with torch.no_grad():
        gaussian = kl.encode(to_torch(X)).latent_dist
        decoded = kl.decode(gaussian.mean).sample
    found = call(ours, X)
    mean, log_variance = np.split(found["moments"], 2, axis=-1)
    assert_close(mean / 0.4, channels_last(gaussian.mean), "AutoencoderKL means")
    assert_close(np.exp((log_variance - 2 * np.log(0.4)) / 2), channels_last(gaussian.std), "AutoencoderKL deviations")
    np.testing.assert_array_equal(found["latents"], mean)
    np.testing.assert_allclose(found["kl"], gaussian.kl().numpy(), rtol=1e-4)
    assert_close(found["reconstruction"], channels_last(decoded), "AutoencoderKL images")
    latents = call(ours, X, method="encode")
    assert_close(call(ours, latents, method="decode"), channels_last(decoded), "AutoencoderKL, from scaled latents")
    again = read_again(ours, tmp_path, diffusers.AutoencoderKL)
    assert again.config.scaling_factor == 0.4
    with torch.no_grad():
        assert_close(channels_last(again(to_torch(X)).sample), channels_last(decoded), "AutoencoderKL, written again")


def test_log_variances_are_clipped(kl):
    ours = read(diffusers_kl, tensors_of(kl), Sidecar(config=config_of(kl) | {"scaling_factor": 1.0}))
    ours.params["quant_conv/bias"] = ours.params["quant_conv/bias"] + np.float32([0, 0, 0, 100, -100, 0])
    log_variance = call(ours, X)["moments"][..., 3:]
    assert log_variance[..., 0].min() == 20 and log_variance[..., 1].max() == -30


def test_kl_autoencoder_of_newer_models_and_of_older_files(kl, tmp_path):
    """SD3 and FLUX.1 have a shift and no 1x1 convolutions; files of before 2023 other names."""
    options = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06, "scaling_factor": 1.5}
    theirs = redrawn(diffusers.AutoencoderKL(**SIZES, **KL, **options))
    ours = read(diffusers_kl, tensors_of(theirs), Sidecar(config=config_of(theirs)))
    with torch.no_grad():
        mean = theirs.encode(to_torch(X)).latent_dist.mean
        decoded = theirs.decode(mean).sample
    latents = call(ours, X, method="encode")
    assert_close(latents, channels_last((mean - 0.06) * 1.5), "AutoencoderKL, shifted latents")
    assert_close(call(ours, latents, method="decode"), channels_last(decoded), "AutoencoderKL, shifted back")
    again = read_again(ours, tmp_path, diffusers.AutoencoderKL)
    assert (again.config.shift_factor, again.config.use_quant_conv) == (0.06, False)

    old = {}
    for name, x in tensors_of(kl).items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(new, before)
        old[name] = x
    before = read(diffusers_kl, old, Sidecar(config=config_of(kl)))
    now = read(diffusers_kl, tensors_of(kl), Sidecar(config=config_of(kl)))
    assert old.keys() != tensors_of(kl).keys()
    for name, x in now.params.items():
        np.testing.assert_array_equal(before.params[name], x, name)


def test_kl_autoencoder_under_its_authors_names(kl):
    ours = read(compvis_kl, in_compvis_names(kl), norm_groups=4, scale=0.4)
    theirs = read(diffusers_kl, tensors_of(kl), Sidecar(config=config_of(kl)))
    for name, x in theirs.params.items():
        np.testing.assert_array_equal(ours.params[name], x, name)
    assert ours.model == theirs.model
    assert "nothing says the scale" in ours.published.remarks[0]


def test_published_scales_are_known_by_their_sizes():
    for variant, scale in (("f8", 0.18215), ("mar_f16", 0.2325), ("f16", 1.0)):
        size = VARIANTS[variant]
        kwargs = {
            "multipliers": list(size.multipliers), "attention_levels": list(size.attention_levels),
            "decoder_attention_levels": list(size.decoder_attention_levels), "latent_width": size.latent_width,
        }  # fmt: skip
        assert assumed_scale(kwargs)[0] == scale


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_tiny_autoencoder(channels, tmp_path):
    sizes = {"num_encoder_blocks": (1, 2, 1), "num_decoder_blocks": (2, 1, 1)}
    widths = {f"{half}_block_out_channels": (8, 8, 8) for half in ("encoder", "decoder")}
    theirs = redrawn(diffusers.AutoencoderTiny(**sizes, **widths, latent_channels=channels))
    with torch.no_grad():
        latents = theirs.encode(to_torch(X)).latents
        decoded = theirs.decode(latents).sample
    assert latents.std(dim=(2, 3)).min() > 0.01 < decoded.std(dim=(2, 3)).min()  # ReLU has left something
    ours = read(diffusers_tiny, tensors_of(theirs), Sidecar(config=config_of(theirs)))
    found = call(ours, X)
    assert_close(found["latents"], channels_last(latents), "AutoencoderTiny latents")
    assert_close(found["reconstruction"], channels_last(decoded), "AutoencoderTiny images")
    again = read_again(ours, tmp_path, diffusers.AutoencoderTiny)
    with torch.no_grad():
        assert_close(channels_last(again.decode(latents).sample), channels_last(decoded), "AutoencoderTiny, again")
    authors = {}
    for name, x in tensors_of(theirs).items():
        half, _, number, rest = name.split(".", 3)
        authors[f"{half}.{int(number) + (half == 'decoder')}.{rest}"] = x
    for name, x in read(taesd, authors).params.items():
        np.testing.assert_array_equal(x, ours.params[name], name)


def test_chameleon_s_tokenizer(tmp_path):
    config = transformers.models.chameleon.configuration_chameleon.ChameleonVQVAEConfig(
        embed_dim=6, num_embeddings=40, latent_channels=5, resolution=16, base_channels=32, channel_multiplier=[1, 2, 1],
        num_res_blocks=1, attn_resolutions=[8],
    )  # fmt: skip
    theirs = redrawn(transformers.models.chameleon.modeling_chameleon.ChameleonVQVAE(config))
    ours = read(hf_chameleon_vqvae, tensors_of(theirs), Sidecar(config=json.loads(config.to_json_string())))
    assert ours.image_size == (16, 16) and ours.kwargs["attention_levels"] == [1]
    x = X[:, :, :16]
    with torch.no_grad():
        wanted = theirs.encode(to_torch(x))
        latents = theirs.quant_conv(wanted.last_hidden_state)
        behind = theirs.post_quant_conv(wanted.quantized_last_hidden_state)
    found = call(ours, x)
    assert_close(found["latents"], channels_last(latents), "Chameleon latents")
    np.testing.assert_array_equal(found["indices"].reshape(-1), wanted.image_tokens.numpy())
    assert_close(found["decoder_input"], channels_last(behind), "Chameleon, what a decoder would get")
    write(ours, tmp_path, ours.metadata(labels=()))
    again = transformers.models.chameleon.modeling_chameleon.ChameleonVQVAE.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again.encode(to_torch(x)).image_tokens, wanted.image_tokens)
    tensors, files = read_folder(tmp_path)
    assert files.config["attn_resolutions"] == [8] and len(tensors) == len(tensors_of(theirs))
