"""DiT against diffusers, every parameter drawn anew."""

import jax
import numpy as np
import pytest
import torch

import tests.torchvision_ops  # noqa: F401  before diffusers
import vit_jax
from tests.parity.oracle import assert_close, build, error, images, nested_params, read, shapes_of, to_torch
from tests.parity.test_autoencoders import channels_last, config_of, read_again, redrawn, tensors_of
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import diffusers_dit, dit_authors
from vit_jax.checkpoints.name_map import NameMap
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import open_source
from vit_jax.errors import UserError
from vit_jax.nn.diffusion import denoise

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.oracle

# Odd heads; the last norms' epsilon is not that of the others, and large.
SMALL = {
    "num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2, "in_channels": 3, "out_channels": 6,
    "sample_size": 12, "patch_size": 2, "num_embeds_ada_norm": 4, "norm_eps": 1e-2,
}  # fmt: skip
TIMES, LABELS = np.array([3, 977]), np.array([4, 0])  # the null class, and another
# Their unpatchify takes every picture for a square one.
X = [images(*size, batch=2) for size in ((12, 12), (8, 18))]


@pytest.fixture(scope="module")
def theirs():
    model, rng = diffusers.DiTTransformer2DModel(**SMALL), np.random.default_rng(0)
    with torch.no_grad():
        for x in model.parameters():
            drawn = rng.normal(size=tuple(x.shape)) / (np.prod(x.shape[1:]) ** 0.5 if x.ndim > 1 else 3)
            x.copy_(torch.from_numpy(drawn.astype(np.float32)))
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    return read(diffusers_dit, tensors_of(theirs), Sidecar(config=config_of(theirs)))


def called(model, x):
    with torch.no_grad():
        found = model(to_torch(x), timestep=torch.from_numpy(TIMES), class_labels=torch.from_numpy(LABELS)).sample
    found = channels_last(found)
    if found.shape[1:3] == x.shape[1:3]:
        return found
    side = found.shape[1] // 2
    patches = found.reshape(2, side, 2, side, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    patches = patches.reshape(2, rows, columns, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(*x.shape[:3], -1)


def apply(model, params, x):
    return np.asarray(jax.jit(model.apply)({"params": params}, x, TIMES, LABELS))


def test_dit(theirs, ours, tmp_path):
    for x in X:
        wanted = called(theirs, x)
        assert np.abs(wanted).max() > 0.5
        assert_close(apply(ours.model, nested_params(ours), x), wanted, "DiTTransformer2DModel")
    for flag, value in (("time_shift", 0), ("norm2_epsilon", None), ("grid_side", None)):
        other = build("dit", ours.kwargs | {flag: value})
        assert error(apply(other, nested_params(ours), x), wanted) > 1e-3, flag
    again = read_again(ours, tmp_path, diffusers.DiTTransformer2DModel)
    np.testing.assert_array_equal(called(again, X[0]), called(theirs, X[0]))


def test_an_embedder_of_its_own_is_refused(theirs, ours):
    tensors = tensors_of(theirs)
    tensors["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"][0] += 1
    shapes = shapes_of(ours.model, (12, 12))
    with pytest.raises(UserError, match="differ, and the model has one parameter"):
        list(ours.names.read(tensors.__getitem__, shapes, "FILE"))


def test_the_authors_names(ours):
    """The same numbers by other names, with the authors' time and epsilon, and computed the same."""
    kwargs = {k: x for k, x in ours.kwargs.items() if k not in ("time_shift", "norm2_epsilon")}
    names = dit_authors.name_map(kwargs, {})
    tensors = names.write(ours.params)
    assert tensors["pos_embed"].shape == (1, 36, 24) and tensors["blocks.1.attn.qkv.weight"].shape == (72, 24)
    [files] = dit_authors.sidecar(ours.metadata(labels=()) | {"model": {"name": "dit", "kwargs": kwargs}}).values()
    again = read(dit_authors, tensors, Sidecar(config=files))
    assert build("dit", again.kwargs) == build("dit", kwargs)
    for name, x in ours.params.items():
        np.testing.assert_array_equal(again.params[name], x)
    assert dit_authors.sidecar(ours.metadata(labels=())) is None
    assert diffusers_dit.sidecar(again.metadata(labels=())) is None


def test_names_of_the_published_ones():
    """XL/2 on shapes alone: each of our parameters from theirs, and each of theirs read."""
    with torch.device("meta"):
        theirs = diffusers.DiTTransformer2DModel(out_channels=8)
    shapes = {name: tuple(x.shape) for name, x in theirs.state_dict().items()}
    assert sum(np.prod(shape) for shape in shapes.values()) == 749_826_464
    said = diffusers_dit.describe(shapes, Sidecar(config=config_of(theirs)))
    assert said.kwargs["variant"] == "XL/2" and said.kwargs["grid_side"] == 16
    ours = shapes_of(build("dit", said.kwargs), (32, 32))
    assert sum(np.prod(shape) for shape in ours.values()) == 674_834_720
    authors = dit_authors.name_map(said.kwargs, {})
    for names in (diffusers_dit.name_map(said.kwargs, {}), authors):
        assert isinstance(names, NameMap) and {name for one in names.entries for name in one.ours} == ours.keys()
    diffusers_dit.name_map(said.kwargs, {}).check(shapes, "FILE")
    [table] = [entry.write()[0] for entry in authors.entries if not entry.ours]
    assert table.size == 294_912


# Their pipeline takes 1000 for the null class.
LATENT = SMALL | {"in_channels": 4, "out_channels": 8, "sample_size": 4, "num_embeds_ada_norm": 1000}
VAE = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "sample_size": 8,
}  # fmt: skip


def drawn(pipeline, monkeypatch, latents, **how):
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(diffusers.pipelines.dit.pipeline_dit, "randn_tensor", lambda *_, **__: to_torch(latents))
    return pipeline([3, 999], num_inference_steps=4, guidance_scale=2.5, output_type="np", **how).images


def test_a_whole_pipeline(tmp_path, monkeypatch):
    """Read, drawn from as theirs, written, and opened by them again."""
    torch.manual_seed(0)
    transformer = redrawn(diffusers.DiTTransformer2DModel(**LATENT))
    first = transformer.transformer_blocks[0].norm1.emb.state_dict()
    for block in transformer.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    scheduler = diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False, num_train_timesteps=100)
    theirs = diffusers.DiTPipeline(
        transformer, redrawn(diffusers.AutoencoderKL(**VAE)), scheduler, {str(i): f"no. {i}" for i in range(1000)}
    )
    theirs.save_pretrained(tmp_path / "theirs")
    ours = vit_jax.load(tmp_path / "theirs")
    task = ours.task
    assert (task.steps, task.schedule, task.variance, task.image_size) == (100, "linear", "learned_range", (8, 8))
    latents = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    settings = task.sampling("ddim", 4, guidance=2.5)

    @jax.jit
    def sample(variables, start):
        process = task.reverse_process(variables, {"label": np.array([3, 999])}, settings)
        return process.decode(denoise(process.predict, process.noising, start, lambda _: 0 * start, process.how))

    wanted = drawn(theirs, monkeypatch, latents)
    assert wanted.std() > 0.05
    assert np.abs(np.asarray(sample(ours.variables, latents)) - wanted).max() < 1 / 255
    export(open_source(tmp_path / "theirs"), tmp_path / "ours", "diffusers")
    again = diffusers.DiTPipeline.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert type(again.scheduler) is diffusers.DDIMScheduler
    np.testing.assert_array_equal(drawn(again, monkeypatch, latents), wanted)
    back = open_source(tmp_path / "ours").metadata
    assert (back["task"], back["labels"]) == (ours.metadata["task"], ours.metadata["labels"])
