"""Latent diffusion without a condition as a whole: U-Net, scheduler and codes of diffusers' LDMPipeline."""

import jax
import numpy as np
import pytest
import torch

import tests.torchvision_ops  # noqa: F401  before diffusers
from tests.parity.oracle import assert_close, nested_params, read, to_torch
from tests.parity.test_autoencoders import config_of, redrawn, tensors_of
from vit_jax.checkpoints.families import diffusers_unet, diffusers_vq
from vit_jax.checkpoints.published import Sidecar
from vit_jax.tasks import DataInfo, ddpm

diffusers = pytest.importorskip("diffusers")

LDM = {
    "block_out_channels": (6, 12), "layers_per_block": 1, "norm_num_groups": 3, "attention_head_dim": 3,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "in_channels": 4, "out_channels": 4, "sample_size": 4,
}  # fmt: skip
VQ = {
    "block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2, "sample_size": 8, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "num_vq_embeddings": 7, "vq_embed_dim": 4, "scaling_factor": 1.0,
}  # fmt: skip
NOISE = {"schedule": "scaled_linear", "first": 0.0015, "last": 0.0195}


def test_latents_pass_the_codes(monkeypatch):
    torch.manual_seed(0)
    unet, vq = redrawn(diffusers.UNet2DModel(**LDM)), redrawn(diffusers.VQModel(**VQ))
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, clip_sample=False
    )
    pipeline = diffusers.LDMPipeline(vqvae=vq, unet=unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    parts = [
        read(family, tensors_of(model), Sidecar(config=config_of(model)))
        for family, model in ((diffusers_unet, unet), (diffusers_vq, vq))
    ]
    sections = [{"name": one.published.model, **one.kwargs} for one in parts]
    task = ddpm.build(
        model={key: x for key, x in sections[0].items() if key not in ("inputs", "outputs", "num_classes")},
        data=DataInfo((8, 8), ()), tokenizer=sections[1], **NOISE,
    )  # fmt: skip
    trees = [nested_params(one) for one in parts]
    variables = {"params": {**trees[0], "tokenizer": trees[1]}, "model_state": {}}
    start = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    settings = task.sampling(sampler="ddim", steps=4)

    @jax.jit
    def images(start):
        process = task.reverse_process(variables, {"label": np.zeros(2, np.int32)}, settings)
        latents = process.sample(jax.random.split(jax.random.key(0), 2), start)
        return latents, process.decode(latents)

    found, pictures = images(start)
    # The pipeline keeps no latents: they are what it decodes.
    seen, decode = [], vq.decode
    monkeypatch.setattr(vq, "decode", lambda latents: seen.append(latents) or decode(latents))
    replaced = type(pipeline).__call__.__wrapped__.__globals__
    monkeypatch.setitem(replaced, "randn_tensor", lambda *_, **__: to_torch(start))
    wanted = pipeline(batch_size=2, num_inference_steps=4, output_type="np").images
    assert_close(np.asarray(found), seen[0].permute(0, 2, 3, 1).numpy(), "LDMPipeline's latents")
    assert np.abs(wanted - np.asarray(pictures)).max() < 1 / 255
    between = jax.jit(lambda x: task._tokenizing(variables, x, method="decode"))(found)
    assert np.abs(between / 2 + 0.5 - pictures).max() > 0.05, "the codes are not what the latents are"
