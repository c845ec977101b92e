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
from vit_jax.checkpoints.families import compvis_stable_diffusion, compvis_unet, diffusers_pipeline
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import open_source
from vit_jax.models.latent_diffusion import build
from vit_jax.naming import build_named

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


# Of version 2: products at both ends, heads of 64, CLIP's tower in the names of open_clip, of which one layer is unread.
SECOND = {
    "unet": UNET | {"use_linear_projection": True, "cross_attention_dim": 64, "block_out_channels": (64, 128),
                    "attention_head_dim": (1, 2), "norm_num_groups": 32},
    "text": {"width": 64, "heads": 1, "layers": 3, "vocab_size": 300, "context_length": 77},
}  # fmt: skip


def open_clip_tensors():
    text, rng = SECOND["text"], np.random.default_rng(0)
    width, shapes = text["width"], {}
    for i in range(text["layers"]):
        block = f"transformer.resblocks.{i}."
        shapes |= {f"{block}{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{block}attn.out_proj.weight": (width, width), f"{block}attn.out_proj.bias": (width,)}
        shapes |= {f"{block}mlp.c_fc.weight": (4 * width, width), f"{block}mlp.c_fc.bias": (4 * width,)}
        shapes |= {f"{block}mlp.c_proj.weight": (width, 4 * width), f"{block}mlp.c_proj.bias": (width,)}
    shapes |= {"token_embedding.weight": (text["vocab_size"], width), "positional_embedding": (77, width)}
    shapes |= {"ln_final.weight": (width,), "ln_final.bias": (width,), "text_projection": (width, width)}
    found = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {f"cond_stage_model.model.{name}": x for name, x in found.items()} | {
        "cond_stage_model.model.logit_scale": np.zeros((), np.float32)
    }


def test_the_second_version_in_one_file(models, ours, tmp_path):
    """What diffusers makes of the text tower, without its last layer; v unless a scheduler beside it says otherwise."""
    kwargs = {**ours[0].kwargs["unet"], "channels": 64, "multipliers": [1, 2], "linear": True, "context_width": 64}
    kwargs |= {"heads": [1, 2], "norm_groups": 32, "name": "conditional_unet"}
    shapes = shapes_of(build_named("model", kwargs, "model"), (8, 12))
    rng = np.random.default_rng(1)
    unet = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    section = {key: value for key, value in kwargs.items() if key != "name"}
    names = compvis_unet.name_map(section, {"prefix": compvis_unet.PREFIX})
    file = {name: np.ascontiguousarray(x) for name, x in names.write(unet).items()}
    first = compvis_stable_diffusion.name_map(ours[0].kwargs, {}).write(ours[1])
    file |= {name: np.ascontiguousarray(x) for name, x in first.items() if name.startswith("first_stage_model.")}
    texts = open_clip_tensors()
    save_file({**file, **texts}, tmp_path / "sd2.safetensors")
    opened = open_source(tmp_path / "sd2.safetensors", overrides={"autoencoder": ours[0].kwargs["autoencoder"]})
    metadata = opened.metadata
    assert metadata["model"]["kwargs"]["unet"]["heads"] == [1, 2] and metadata["image_size"] == [768, 768]
    assert metadata["task"]["kwargs"]["prediction"] == "v" and metadata["fields"]["text"].get("pad") != "end"
    assert any("Stable Diffusion 2's is taken" in line for line in metadata["source"]["remarks"])
    read = opened.read()[0]
    config = TEXT | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256}
    config |= {"vocab_size": 300, "hidden_act": "gelu", "bos_token_id": 298, "eos_token_id": 299}
    theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).eval()
    converted = single_file.convert_open_clip_checkpoint(theirs, {n: torch.from_numpy(x) for n, x in texts.items()})
    known = theirs.state_dict()
    prefix = "" if next(iter(known)).startswith("embeddings") else "text_model."
    converted = {prefix + name.removeprefix("text_model."): x for name, x in converted.items()}
    theirs.load_state_dict({name: converted.get(name, x) for name, x in known.items()})
    assert known.keys() <= {*converted, f"{prefix}embeddings.position_ids"}
    ids = np.array([[298, 5, 7, 299, 0, 0]])
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(ids)).last_hidden_state.numpy()
    model = build(**metadata["model"]["kwargs"])
    found = model.apply({"params": read}, ids, method="context")
    assert np.abs(np.asarray(found) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    (tmp_path / "scheduler_config.json").write_text('{"prediction_type": "epsilon", "beta_end": 0.012}')
    metadata = open_source(
        tmp_path / "sd2.safetensors", overrides={"autoencoder": ours[0].kwargs["autoencoder"]}
    ).metadata
    said = metadata["task"]["kwargs"]
    assert (said["prediction"], said["last"], metadata["image_size"]) == ("epsilon", 0.012, [512, 512])


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
