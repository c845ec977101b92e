"""Stable Diffusion's pipeline as a whole against diffusers: folders, prompts, latents and images; every parameter drawn
anew."""

import json
import math

import jax
import numpy as np
import pytest
import torch
import transformers

import tests.torchvision_ops  # noqa: F401  before diffusers
import vit_jax
from tests.parity.oracle import to_torch
from tests.parity.test_autoencoders import channels_last, redrawn
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import diffusers_pipeline
from vit_jax.checkpoints.parts import clip_tokenizer
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import model_shapes, open_source
from vit_jax.nn.diffusion import denoise

diffusers = pytest.importorskip("diffusers")

UNET = {
    "sample_size": [8, 12], "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 24,
    "attention_head_dim": (2, 4), "norm_num_groups": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
VAE = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "sample_size": 24,
}  # fmt: skip
TEXT = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 49408,
    "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407,
}  # fmt: skip
# As the published files say it: without prediction_type.
PNDM = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
    "trained_betas": None, "clip_sample": False,
}  # fmt: skip
PROMPTS = ["a red heart, 2 cats!", " ".join(["long"] * 90)]
NEGATIVE = "blurry"


def write(folder, values, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline as it is published, of tiny random models, with the sampler that most have."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sd")
    redrawn(diffusers.UNet2DConditionModel(**UNET)).save_pretrained(folder / "unet")
    redrawn(diffusers.AutoencoderKL(**VAE)).save_pretrained(folder / "vae")
    redrawn(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))).save_pretrained(folder / "text_encoder")
    field = {"tokenizer": {"name": "clip_bpe"}, "length": 77, "pad": "end"}
    for name, values in clip_tokenizer.files(field).items():
        write(folder, values, f"tokenizer/{name}")
    write(folder, PNDM, "scheduler/scheduler_config.json")
    classes = {
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"], "safety_checker": [None, None], "feature_extractor": [None, None],
    }  # fmt: skip
    write(folder, {"_class_name": "StableDiffusionPipeline", **classes}, "model_index.json")
    return folder


def pipeline(folder):
    found = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    found.scheduler = diffusers.DDIMScheduler.from_config(found.scheduler.config)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def theirs(folder):
    return pipeline(folder)


@pytest.fixture(scope="module")
def ours(folder):
    return vit_jax.load(folder)


LATENTS = np.random.default_rng(0).normal(size=(2, 8, 12, 4)).astype(np.float32)
NOISE = np.random.default_rng(1).normal(size=(10, 2, 8, 12, 4)).astype(np.float32)


def drawn(theirs, monkeypatch, steps, eta, **more):
    """Latents of their pipeline, with the noise of each step from outside."""
    noise = iter(NOISE)
    monkeypatch.setattr(diffusers.schedulers.scheduling_ddim, "randn_tensor", lambda *_, **__: to_torch(next(noise)))
    given = {"negative_prompt": [NEGATIVE] * 2, "guidance_scale": 7.5, "num_inference_steps": steps, "eta": eta}
    given |= {"height": 16, "width": 24, "latents": to_torch(LATENTS).clone(), **more}
    with torch.no_grad():
        return theirs(PROMPTS, **given).images


@pytest.mark.parametrize(("steps", "eta"), [(4, 0.0), (10, 0.5)])
def test_the_whole_pipeline(theirs, ours, monkeypatch, steps, eta):
    task, settings = ours.task, ours.task.sampling(steps=steps, eta=eta, negative=NEGATIVE)
    conditions = task.conditions(PROMPTS, settings)
    ids = theirs.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True).input_ids
    np.testing.assert_array_equal(conditions["text"], ids)
    assert conditions["text_cut"].tolist() == [0, 1]

    @jax.jit
    def sample(variables, conditions, start, noise):
        process = task.reverse_process(variables, conditions, settings)
        x = denoise(process.predict, process.noising, start, lambda n: noise[n], process.how)
        return x, process.decode(x)

    x, images = sample(ours.variables, conditions, LATENTS, NOISE)
    wanted = channels_last(drawn(theirs, monkeypatch, steps, eta, output_type="latent"))
    assert np.abs(np.asarray(x) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    with torch.no_grad():
        pixels = theirs.vae.decode(to_torch(wanted) / theirs.vae.config.scaling_factor).sample
    pixels = theirs.image_processor.postprocess(pixels, output_type="np")
    assert np.abs(np.asarray(images) - pixels).max() <= 1 / 255 and pixels.std() > 0.05


def test_a_folder_of_ours_is_opened_by_diffusers(folder, theirs, tmp_path, monkeypatch):
    export(open_source(folder), tmp_path / "out", "diffusers")
    again = pipeline(tmp_path / "out")
    assert again.scheduler.config.prediction_type == "epsilon" and again.scheduler.config.steps_offset == 1
    found, wanted = (drawn(each, monkeypatch, 4, 0.0, output_type="latent") for each in (again, theirs))
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())
    back = open_source(tmp_path / "out")
    assert back.metadata["task"] == open_source(folder).metadata["task"]


FULL = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}  # fmt: skip
SD1 = ({"cross_attention_dim": 768}, {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
        "num_hidden_layers": 12, "hidden_act": "quick_gelu", "vocab_size": 49408})  # fmt: skip
SD2 = ({"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
       {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
        "hidden_act": "gelu", "vocab_size": 49408})  # fmt: skip


@pytest.mark.parametrize(
    ("unet", "text", "counts"),
    [(*SD1, (859_520_964, 83_653_863, 123_060_480)), (*SD2, (865_910_724, 83_653_863, 340_387_840))],
    ids=["1", "2"],
)
def test_folders_of_full_size_on_shapes_alone(unet, text, counts):
    """Each of our parameters from theirs, as many numbers each, and each of theirs read; nothing is allocated."""
    with torch.device("meta"):
        parts = {
            "unet": diffusers.UNet2DConditionModel(sample_size=64, **unet),
            "vae": diffusers.AutoencoderKL(**FULL),
            "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
        }
    named = {
        part: {n.removeprefix("text_model."): tuple(x.shape) for n, x in model.state_dict().items()}
        for part, model in parts.items()
    }
    shapes = {f"{part}/{name}": shape for part, own in named.items() for name, shape in own.items()}
    beside = {part: Sidecar(config=json.loads(json.dumps(dict(model.config)))) for part, model in parts.items()
              if part != "text_encoder"}  # fmt: skip
    beside["text_encoder"] = Sidecar(config=parts["text_encoder"].config.to_diff_dict())
    beside |= {"scheduler": Sidecar(scheduler=PNDM), "tokenizer": Sidecar()}
    index = {name: ["", ""] for name in beside} | {"_class_name": "StableDiffusionPipeline"}
    found = diffusers_pipeline.describe(shapes, Sidecar(pipeline=index, parts=beside))
    assert found.preprocess["image_size"] == [512, 512] and found.task["name"] == "text_to_image"
    names = diffusers_pipeline.name_map(found.kwargs, found.layout)
    names.check(shapes, "FOLDER")
    ours = model_shapes(found.model, found.kwargs, (512, 512))[0]
    names.check_sizes(shapes, ours, "FOLDER")
    assert {name for entry in names.entries for name in entry.ours} == ours.keys()
    of = [sum(math.prod(x) for n, x in ours.items() if n.startswith(f"{tree}/")) for tree in
          ("unet", "autoencoder", "text")]  # fmt: skip
    assert tuple(of) == counts
