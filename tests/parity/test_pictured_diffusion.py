"""Latent diffusion that goes by an image, a mask, a depth or a control against diffusers' pipelines as a whole; every
parameter drawn anew. An image's latents are the means of their Gaussians on both sides."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers

import tests.torchvision_ops  # noqa: F401  before diffusers
import vit_jax
from tests.parity.oracle import to_torch
from tests.parity.test_autoencoders import channels_last, redrawn
from tests.parity.test_stable_diffusion import TEXT, UNET, VAE
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.given_pictures import read_pictures
from vit_jax.checkpoints.parts import clip_tokenizer
from vit_jax.checkpoints.source import open_source

diffusers = pytest.importorskip("diffusers")

SIZE = (16, 8)
STEPS = {"num_inference_steps": 5, "guidance_scale": 7.5, "eta": 0.0, "negative_prompt": ["blurry"] * 2}
PROMPTS = ["a red heart", "two cats"]
CONTROL = {
    **{key: UNET[key] for key in ("block_out_channels", "layers_per_block", "cross_attention_dim")},
    **{key: UNET[key] for key in ("attention_head_dim", "norm_num_groups", "down_block_types")},
    "conditioning_embedding_out_channels": (4, 8),
}  # fmt: skip
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(2, 8, 4, 4)).astype(np.float32)
PHOTOS = RNG.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
MASK = np.zeros((2, *SIZE), np.uint8)
MASK[0, 3:9, 2:], MASK[1, :, :5] = 1, 1
DEPTH = RNG.uniform(5, 90, (2, *SIZE)).astype(np.float32)
EDGES = (RNG.uniform(size=(2, 2, *SIZE, 1)) < 0.3).astype(np.float32).repeat(3, -1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """All but the U-Net, and the tokenizer's files."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    files = clip_tokenizer.files({"tokenizer": {"name": "clip_bpe"}, "length": 77, "pad": "end"})
    for name, values in files.items():
        (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    return {
        "vae": redrawn(diffusers.AutoencoderKL(**VAE)),
        "text_encoder": redrawn(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(folder),
        "scheduler": scheduler,
    }


def pipeline(kind, shared, folder, channels=4, **more):
    """One of diffusers' pipelines, and what we read of its folder."""
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel(**UNET | {"sample_size": 64, "in_channels": channels})
    parts = {**shared, "unet": redrawn(unet), **more}
    if kind is not diffusers.StableDiffusionDepth2ImgPipeline:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    theirs = kind(**parts)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder)
    # Not a square, which these pipelines' files cannot say.
    config = folder / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": [SIZE[0] // 2, SIZE[1] // 2]}))
    return theirs, vit_jax.load(folder)


def compare(theirs, ours, monkeypatch, asked, pictures, **settings):
    """Final latents and images of both, from the same noise."""
    modules = __import__(type(theirs).__module__, fromlist=["x"])
    if hasattr(modules, "retrieve_latents"):
        monkeypatch.setattr(
            modules, "retrieve_latents", lambda said, generator=None, sample_mode=None: said.latent_dist.mode()
        )
    monkeypatch.setattr(modules, "randn_tensor", lambda *_, **__: to_torch(NOISE), raising=False)
    with torch.no_grad():
        wanted = channels_last(theirs(PROMPTS, **STEPS, **asked, output_type="latent").images)
        pixels = theirs.vae.decode(to_torch(wanted) / theirs.vae.config.scaling_factor).sample
    pixels = theirs.image_processor.postprocess(pixels, output_type="np")
    settings = ours.task.sampling(steps=5, negative="blurry", **settings)
    conditions = ours.task.conditions(PROMPTS, settings) | read_pictures(ours.task, settings, pictures)
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def sample(variables, conditions, noise):
        process = ours.task.reverse_process(variables, conditions, settings)
        x = process.sample(keys, noise)
        return x, process.decode(x)

    x, images = sample(ours.variables, conditions, NOISE)
    assert np.abs(np.asarray(x) - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())
    assert np.abs(np.asarray(images) - pixels).max() <= 1 / 255 and pixels.std() > 0.05
    return np.asarray(x)


def images(values=PHOTOS):
    return to_torch(np.float32(values) / 255)


def signed(values=PHOTOS):
    return (values.astype(np.float32) - 127.5) / np.float32(127.5)


def masks():
    return MASK[..., None].astype(np.float32)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_image_to_image(shared, tmp_path, monkeypatch, strength):
    theirs, ours = pipeline(diffusers.StableDiffusionImg2ImgPipeline, shared, tmp_path)
    asked = {"image": images(), "strength": strength}
    compare(theirs, ours, monkeypatch, asked, {"image": signed()}, strength=strength)


@pytest.mark.parametrize(("channels", "strength"), [(4, 1.0), (4, 0.6), (9, 1.0), (9, 0.6)])
def test_in_painting(shared, tmp_path, monkeypatch, channels, strength):
    theirs, ours = pipeline(diffusers.StableDiffusionInpaintPipeline, shared, tmp_path, channels)
    assert type(ours.task).__name__ == ("TextToImage" if channels == 4 else "Inpaint")
    asked = {"image": images(), "mask_image": to_torch(masks()), "strength": strength, "height": 16, "width": 8}
    pictures = {"image": signed(), "mask": masks()}
    compare(theirs, ours, monkeypatch, asked, pictures, strength=strength)


def test_depth_to_image(shared, tmp_path, monkeypatch):
    kind = diffusers.StableDiffusionDepth2ImgPipeline
    estimator = transformers.DPTForDepthEstimation(
        transformers.DPTConfig(
            hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8,
            backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 4, 4, 4], fusion_hidden_size=4, is_hybrid=False,
        )
    )  # fmt: skip
    theirs, ours = pipeline(
        kind, shared, tmp_path, 5, depth_estimator=estimator, feature_extractor=transformers.DPTImageProcessor()
    )
    asked = {"image": images(), "depth_map": torch.from_numpy(DEPTH), "strength": 0.8}
    compare(theirs, ours, monkeypatch, asked, {"image": signed(), "depth": DEPTH[..., None]}, strength=0.8)


def control_net(seed):
    torch.manual_seed(seed)
    return redrawn(diffusers.ControlNetModel(**CONTROL))


@pytest.mark.parametrize("how", [(1.0, 0.0, 1.0), (0.7, 0.2, 0.8)])
def test_control(shared, tmp_path, monkeypatch, how):
    kind = diffusers.StableDiffusionControlNetPipeline
    theirs, ours = pipeline(kind, shared, tmp_path, controlnet=control_net(2))
    names = ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end")
    asked = {"image": to_torch(EDGES[0]), "latents": to_torch(NOISE).clone(), **dict(zip(names, how, strict=True))}
    said = dict(zip(("control_scale", "control_start", "control_end"), how, strict=True))
    found = compare(theirs, ours, monkeypatch, asked, {"control": EDGES[0]}, **said)
    assert np.abs(found - compare_without(ours, said)).max() > 1e-2


def compare_without(ours, said):
    """Latents of the same noise without control."""
    settings = ours.task.sampling(steps=5, negative="blurry", **{**said, "control_scale": 0.0})
    conditions = ours.task.conditions(PROMPTS, settings) | {"control": EDGES[0]}
    keys = jax.random.split(jax.random.key(0), 2)
    run = jax.jit(lambda v: ours.task.reverse_process(v, conditions, settings).sample(keys, NOISE))
    return np.asarray(run(ours.variables))


def test_two_controls(shared, tmp_path, monkeypatch):
    kind = diffusers.StableDiffusionControlNetPipeline
    several = diffusers.MultiControlNetModel([control_net(2), control_net(3)])
    theirs, ours = pipeline(kind, shared, tmp_path, controlnet=several)
    asked = {
        "image": [to_torch(x) for x in EDGES], "controlnet_conditioning_scale": [0.5, 1.5], "control_guidance_end": [1.0, 0.6],
        "latents": to_torch(NOISE).clone(),
    }  # fmt: skip
    pictures = {"control": np.concatenate([*EDGES], axis=-1)}
    compare(theirs, ours, monkeypatch, asked, pictures, control_scale=(0.5, 1.5), control_end=(1.0, 0.6))


@pytest.mark.parametrize("name", ["inpaint", "depth", "two controls"])
def test_folders_of_ours_are_opened_by_diffusers(name, shared, tmp_path):
    """Whatever their sides, although two of these pipelines compare the side with a number."""
    channels, more, given, kind = 4, {}, {}, diffusers.StableDiffusionControlNetPipeline
    if name == "inpaint":
        channels, kind = 9, diffusers.StableDiffusionInpaintPipeline
    elif name == "depth":
        channels, kind = 5, diffusers.StableDiffusionDepth2ImgPipeline
        given = {"depth_estimator": None, "feature_extractor": None}  # which nothing of ours stands for
        more = given
    else:
        more = {"controlnet": diffusers.MultiControlNetModel([control_net(2), control_net(3)])}
    theirs, _ = pipeline(kind, shared, tmp_path / "theirs", channels, **more)
    export(open_source(tmp_path / "theirs"), tmp_path / "ours", "diffusers")
    again = kind.from_pretrained(tmp_path / "ours", local_files_only=True, **given)
    for part in ("unet", "vae", "text_encoder", *(["controlnet"] if "controlnet" in more else [])):
        found, wanted = (getattr(each, part).state_dict() for each in (again, theirs))
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], x) for key, x in wanted.items()), part


def test_control_of_what_is_painted_in(shared, tmp_path, monkeypatch):
    kind = diffusers.StableDiffusionControlNetInpaintPipeline
    theirs, ours = pipeline(kind, shared, tmp_path, controlnet=control_net(2))
    asked = {
        "image": images(), "mask_image": to_torch(masks()), "control_image": to_torch(EDGES[0]), "strength": 0.8,
        "height": 16, "width": 8, "control_guidance_end": 0.5, "controlnet_conditioning_scale": 1.0,
    }  # fmt: skip
    pictures = {"image": signed(), "mask": masks(), "control": EDGES[0]}
    compare(theirs, ours, monkeypatch, asked, pictures, strength=0.8, control_end=0.5)
