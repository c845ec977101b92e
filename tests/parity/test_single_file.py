"""Stable Diffusion in one file with its authors' names: what diffusers makes of it, and what we do."""

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

import tests.torchvision_ops  # noqa: F401  before diffusers
from tests.parity.oracle import shapes_of
from tests.parity.test_autoencoders import redrawn, tensors_of
from tests.parity.test_stable_diffusion import PNDM, TEXT, UNET, VAE
from vit_jax.checkpoints.families import compvis_stable_diffusion, diffusers_pipeline
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import open_source
from vit_jax.models.latent_diffusion import build

diffusers = pytest.importorskip("diffusers")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

CLASSES = {name: ["diffusers", "X"] for name in ("unet", "vae", "text_encoder", "scheduler")}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {
        "unet": redrawn(diffusers.UNet2DConditionModel(**UNET)),
        "vae": redrawn(diffusers.AutoencoderKL(**VAE)),
        "text_encoder": redrawn(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))),
    }


@pytest.fixture(scope="module")
def ours(models):
    """Arguments and parameters by the names of diffusers' folder, which has its own tests."""
    tensors = {f"{part}/{name}": x for part, model in models.items() for name, x in tensors_of(model).items()}
    parts = {part: Sidecar(config=dict(model.config.to_dict() if part == "text_encoder" else model.config))
             for part, model in models.items()}  # fmt: skip
    sidecar = Sidecar(
        pipeline={"_class_name": "StableDiffusionPipeline", **CLASSES}, parts={**parts, "scheduler": Sidecar(scheduler=PNDM)}
    )  # fmt: skip
    said = diffusers_pipeline.describe({name: x.shape for name, x in tensors.items()}, sidecar)
    names = diffusers_pipeline.name_map(said.kwargs, said.layout)
    shapes = shapes_of(build(**said.kwargs), said.preprocess["image_size"])
    return said, dict(names.read(tensors.__getitem__, shapes, "FOLDER"))


@pytest.fixture(scope="module")
def file(ours):
    said, params = ours
    written = compvis_stable_diffusion.name_map(said.kwargs, {}).write(params)
    return {name: np.ascontiguousarray(x) for name, x in written.items()}


def test_diffusers_reads_our_names_as_its_own(models, file):
    tensors = {name: torch.from_numpy(x) for name, x in file.items()}
    unet = {**models["unet"].config, "class_embed_type": None}
    text = "cond_stage_model.transformer."
    found = {
        "unet": single_file.convert_ldm_unet_checkpoint(tensors, unet),
        "vae": single_file.convert_ldm_vae_checkpoint(tensors, dict(models["vae"].config)),
        "text_encoder": {n.removeprefix(text): x for n, x in tensors.items() if n.startswith(text)},
    }
    for part, model in models.items():
        wanted = {name.removeprefix("text_model."): x for name, x in tensors_of(model).items()}
        given = {name.removeprefix("text_model."): x for name, x in found[part].items()}
        assert given.keys() == wanted.keys()
        for name, x in wanted.items():
            np.testing.assert_array_equal(given[name], x, err_msg=name)


def test_such_a_file_is_read(ours, file, tmp_path):
    """With what else is in it; what it does not say is Stable Diffusion 1's."""
    said, params = ours
    rest = {
        "betas": np.zeros(3, np.float32),
        "model_ema.decay": np.zeros((), np.float32),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(77)[None],
    }
    save_file({**file, **rest}, tmp_path / "sd.safetensors")
    known = {name: said.kwargs[name] for name in ("unet", "autoencoder", "text")}
    opened = open_source(tmp_path / "sd.safetensors", overrides=known)
    assert opened.metadata["source"]["family"] == "compvis_stable_diffusion"
    task = opened.metadata["task"]
    assert task["name"] == "text_to_image" and opened.metadata["fields"]["text"]["pad"] == "end"
    assert any("Stable Diffusion 1's is taken" in line for line in opened.metadata["source"]["remarks"])
    read, _ = opened.read()
    flat = {"/".join(k.key for k in path): x for path, x in jax.tree_util.tree_flatten_with_path(read)[0]}
    assert flat.keys() == params.keys()
    for name, x in params.items():
        np.testing.assert_array_equal(flat[name], x, err_msg=name)


def test_full_size_names():
    """On shapes alone: Stable Diffusion 1's, all of whose arguments but the heads shapes say."""
    sizes = {"width": 768, "depth": 12, "mlp_dim": 3072, "num_heads": 12, "max_length": 77}
    kwargs = {"unet": {"name": "conditional_unet"}, "autoencoder": {"name": "kl_autoencoder", "variant": "f8"},
              "text": {"name": "text_tower", **sizes}, "vocab_size": 49408, "end_id": 49407}  # fmt: skip
    model = build(**kwargs)
    wanted = shapes_of(model, (64, 64))
    assert sum(int(np.prod(x)) for x in wanted.values()) == 859_520_964 + 83_653_863 + 123_060_480
    names = compvis_stable_diffusion.name_map(kwargs, {})
    assert {name for one in names.entries for name in one.ours} == wanted.keys()
