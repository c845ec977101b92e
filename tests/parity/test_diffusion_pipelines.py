"""Whole pipelines of diffusion in pixels, their own noise replayed: folders of diffusers through `vit_jax.load`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import tests.torchvision_ops  # noqa: F401  before diffusers
import vit_jax
from tests.parity.oracle import assert_close
from tests.parity.test_autoencoders import redrawn
from tests.parity.test_unet import ADM, SIZES
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.source import StoredModel
from vit_jax.nn.diffusion import denoise

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.oracle

COUNT = 2


def quieter(model):
    """Predictions of about the size of noise, so that samples do not all end at -1 or 1."""
    with torch.no_grad():
        for x in model.conv_out.parameters():
            x.mul_(0.3)
    return model


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("unet")
    theirs = quieter(redrawn(diffusers.UNet2DModel(**SIZES)))
    theirs.save_pretrained(folder)
    return theirs, vit_jax.load(folder)


def check_images(pipeline, ours, sampler, eta=0.0):
    more = {"eta": eta} if sampler == "ddim" else {}
    pipeline.set_progress_bar_config(disable=True)
    drawing = torch.Generator().manual_seed(1)
    wanted = pipeline(COUNT, drawing, num_inference_steps=4, output_type="np", **more).images
    assert (wanted > 0).mean() > 0.1 and wanted.std() > 0.1
    again = torch.Generator().manual_seed(1)
    noise = np.stack([torch.randn((COUNT, 3, 16, 16), generator=again).permute(0, 2, 3, 1).numpy() for _ in range(5)])
    settings = ours.task.sampling(sampler, 4, eta=eta)

    @jax.jit
    def draw(noise):
        process = ours.task.reverse_process(ours.variables, {"label": jnp.zeros(COUNT, jnp.int32)}, settings)
        return process.decode(denoise(process.predict, process.noising, noise[0], lambda i: noise[i + 1], process.how))

    found = np.asarray(draw(noise))
    assert_close(found, wanted, f"{sampler} {eta:g}")
    assert np.abs(found - wanted).max() < 1 / 255


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5)])
def test_a_pipeline(both, sampler, eta):
    theirs, ours = both
    if sampler == "ddpm":
        # What `ddpm` has where nothing is said.
        pipeline = diffusers.DDPMPipeline(theirs, diffusers.DDPMScheduler(variance_type="fixed_large"))
    else:
        pipeline = diffusers.DDIMPipeline(theirs, diffusers.DDIMScheduler())
    check_images(pipeline, ours, sampler, eta)


def test_a_folder_of_ours_is_their_pipeline(both, tmp_path):
    """With the noise of the run, which is not what either library takes where nothing is said."""
    _, ours = both
    noise = {"schedule": "cosine", "prediction": "v", "variance": "small", "steps": 100}
    task = {**ours.metadata["task"], "kwargs": {**ours.metadata["task"]["kwargs"], **noise}}
    source = StoredModel(ours.path, {**ours.metadata, "task": task}, lambda: (ours.params, {}))
    export(source, tmp_path / "ours", "diffusers")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert type(pipeline.scheduler) is diffusers.DDPMScheduler
    again = vit_jax.load(tmp_path / "ours")
    assert {key: getattr(again.task, key) for key in noise} == noise
    check_images(pipeline, again, "ddpm")


def test_samples_of_a_folder(tmp_path):
    """With ADM's options, of classes that have no names; and a U-Net of latents, which is a model by itself."""
    torch.manual_seed(0)
    redrawn(diffusers.UNet2DModel(**SIZES | ADM)).save_pretrained(tmp_path / "adm")
    loaded = vit_jax.load(tmp_path / "adm")
    assert loaded.labels == tuple(f"class {i}" for i in range(5)) and loaded.task.variance == "learned_range"
    drawn = loaded.sample(2, prompts=["class 1", "4"], sampler="ddim", steps=2)
    assert drawn.images.shape == (2, 16, 16, 3) and drawn.conditions["label"].tolist() == [1, 4]
    assert drawn.images[0].std() > 1
    redrawn(diffusers.UNet2DModel(**SIZES | {"in_channels": 4, "out_channels": 4})).save_pretrained(
        tmp_path / "latents"
    )
    latents = vit_jax.load(tmp_path / "latents")
    assert latents.model.inputs == 4 and latents.preprocess is None
