"""CLIP and other pairs of towers of transformers and open_clip: read from what they save, and written so that they load it.

Files are compared, not `state_dict()`, which has other names in some versions.
"""

import json

import jax
import numpy as np
import open_clip
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from safetensors.torch import save_file

import vit_jax
from tests.parity.oracle import TOLERANCE, error, files_beside, read, to_torch
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import (
    hf_clip,
    hf_clip_vision,
    hf_dual_encoder,
    hf_siglip2,
    hf_siglip_pair,
    open_clip_resnet,
)
from vit_jax.checkpoints.families import open_clip as of_open_clip
from vit_jax.checkpoints.source import open_source

V, LENGTH, END = 60, 12, 59
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGE = {**BLOCKS, "image_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": V,
        "max_position_embeddings": LENGTH, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": 0}  # fmt: skip


def clip(image=None, **text):
    config = transformers.CLIPConfig(
        text_config=TEXT | text, vision_config=IMAGE | (image or {}), projection_dim=20, logit_scale_init_value=1.5
    )
    return transformers.CLIPModel(config)


def dual():
    image = transformers.ViTConfig(**IMAGE)
    text = transformers.BertConfig(**{k: v for k, v in TEXT.items() if not k.endswith("_id")})
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(image, text, projection_dim=20)
    return transformers.VisionTextDualEncoderModel(config)


def of_open(vision, **more):
    text = {"context_length": LENGTH, "vocab_size": V, "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 2.0}
    config = {"embed_dim": 20, "vision_cfg": {"image_size": 32, **vision}, "text_cfg": text, **more}
    model = open_clip.CLIP(**{k: dict(v) if isinstance(v, dict) else v for k, v in config.items()}, output_dict=True)
    model.config = {"model_cfg": config, "preprocess_cfg": {"size": 32}}
    return model


def siglip():
    text = {**TEXT, "hidden_size": 32, "num_attention_heads": 4, "projection_size": 32}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=IMAGE))


def siglip2():
    text = {**TEXT, "hidden_size": 32, "num_attention_heads": 4, "projection_size": 32}
    image = {**BLOCKS, "patch_size": 8, "num_patches": 16}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=image))


VIT = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "mlp_ratio": 1.5}
RESNET = {"layers": [1, 2, 1, 1], "width": 8, "head_width": 32}
# By name: our family, and what makes theirs.
CASES = {
    "clip": (hf_clip, clip),
    "clip, another end": (hf_clip, lambda: clip({"hidden_act": "gelu", "layer_norm_eps": 1e-4}, eos_token_id=57)),
    "clip, before 4.31": (hf_clip, lambda: clip(eos_token_id=2, hidden_act="gelu_new")),
    "clip vision": (hf_clip_vision, lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**IMAGE))),
    "clip vision, projected": (
        hf_clip_vision,
        lambda: transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**IMAGE, projection_dim=20)),
    ),
    "siglip": (hf_siglip_pair, siglip),
    "siglip2": (hf_siglip2, siglip2),
    "dual": (hf_dual_encoder, dual),
    "open_clip": (of_open_clip, lambda: of_open(VIT)),
    "open_clip, quick": (of_open_clip, lambda: of_open(VIT, quick_gelu=True)),
    "open_clip, resnet": (open_clip_resnet, lambda: of_open(RESNET, quick_gelu=True)),
}  # fmt: skip


def model_of(name):
    """A model of theirs with every parameter and statistic drawn anew, none near zero or one."""
    torch.manual_seed(3)
    model = CASES[name][1]().eval()
    with torch.no_grad():
        for key, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and "mask" not in key:
                tensor.normal_(0, 0.3)
                if key.endswith("running_var"):
                    tensor.abs_().add_(0.1)
                if "bn" in key and key.endswith("weight"):
                    tensor.add_(1)
    return model


def save(model, folder):
    if not name_is_open(model):
        return model.save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(model.config))
    return save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def name_is_open(model):
    return isinstance(model, open_clip.CLIP)


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """(name, their model, the folder that it saves)."""
    folder = tmp_path_factory.mktemp("model")
    model = model_of(request.param)
    save(model, folder)
    return request.param, model, folder


def inputs(name, padding=0):
    """Three images, and three texts with their ends."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 32, 32, 3)).astype(np.float32)
    ids = rng.integers(2, 50, (3, LENGTH))
    end = 57 if "another end" in name else END
    for row, length in enumerate((LENGTH, 7, 2)):
        ids[row, length - 1] = end
        ids[row, length:] = padding
    return images, ids, np.arange(LENGTH) < np.array([LENGTH, 7, 2])[:, None]


def patches():
    """Three images in rows of patches, of which two are not filled; which places are; and rows and columns."""
    shapes = np.array([[4, 4], [2, 5], [3, 3]])
    rows = np.random.default_rng(2).normal(size=(3, 16, 192)).astype(np.float32)
    return rows, np.arange(16) < shapes.prod(1)[:, None], shapes


def theirs(model, name, padding=0):
    images, ids, there = inputs(name, padding)
    pixels, ids = to_torch(images), torch.from_numpy(ids)
    with torch.no_grad():
        if "vision" in name:
            found = model(pixels)
            if "projected" in name:
                return {"features": model.vision_model(pixels).pooler_output}
            return {"features": found.pooler_output}
        if name_is_open(model):
            found = model(pixels, ids)
            logits = found["logit_scale"] * found["image_features"] @ found["text_features"].T
            return {
                "image_embedding": found["image_features"], "text_embedding": found["text_features"], "logits": logits,
            }  # fmt: skip
        if name == "siglip2":
            rows, filled, shapes = map(torch.from_numpy, patches())
            images = {"spatial_shapes": shapes, "pixel_attention_mask": filled.long()}
            found = model(pixel_values=rows, input_ids=ids, **images)
            return {
                "features": model.vision_model(rows, images["pixel_attention_mask"], shapes).pooler_output,
                "image_embedding": found.image_embeds, "text_embedding": found.text_embeds,
                "logits": found.logits_per_image,
            }  # fmt: skip
        if "siglip" in name:  # its texts see their padding
            found = model(pixel_values=pixels, input_ids=ids)
        else:
            texts = {"input_ids": ids, "attention_mask": torch.from_numpy(there).long()}
            found = model(pixel_values=pixels, **texts)
        given = {
            "features": model.vision_model(pixels).pooler_output,
            "image_embedding": found.image_embeds, "text_embedding": found.text_embeds,
            "logits": found.logits_per_image,
        }  # fmt: skip
        if "siglip" not in name:  # theirs are projected
            given["text_features"] = model.text_model(**texts).pooler_output
        return given


def ours(loaded, name, padding=0):
    images, ids, there = inputs(name, padding)
    variables = {"params": loaded.params, **loaded.model_state}
    if "vision" in name:
        return jax.jit(loaded.model.apply)(variables, images)
    options = {}
    if name == "siglip2":
        images, _, options["shapes"] = patches()
    found = jax.jit(loaded.model.apply)(variables, images, ids, token_mask=there, **options)
    embeddings = found["image_embedding"], found["text_embedding"]
    return found | {"logits": loaded.model.apply(variables, *embeddings, method="similarity")}


def test_outputs_are_theirs(saved):
    name, model, folder = saved
    found = ours(vit_jax.load(folder), name)
    for key, value in theirs(model, name).items():
        largest = error(np.asarray(found[key]), value)
        print(f"\nPARITY {name}, {key} | {largest:.1e}, reference up to {value.abs().max():.1f}")
        assert largest < TOLERANCE, key


def test_the_names_are_a_bijection_and_come_back_bit_for_bit(saved):
    name, _, folder = saved
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    kept = {key: x for key, x in tensors.items() if "num_batches" not in key}
    if "projected" in name:
        del kept["visual_projection.weight"]
    found = read(CASES[name][0], kept, files_beside(folder))
    assert all(value.dtype == np.float32 for value in found.params.values())


def test_what_we_write_is_theirs_again(saved, tmp_path):
    name, model, folder = saved
    to = "open_clip" if name_is_open(model) else "transformers"
    export(open_source(folder), tmp_path / "out", to)
    if to == "open_clip":
        again, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
        again.output_dict = True
        written, before = again.state_dict(), model.state_dict()
        assert {k for k in written if "num_batches" not in k} == {k for k in before if "num_batches" not in k}
    elif "projected" in name:
        again, model = transformers.CLIPVisionModel.from_pretrained(tmp_path / "out"), model.vision_model
        name = "clip vision"
    else:
        again, told = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not told["unexpected_keys"] and not told["mismatched_keys"] and not told["missing_keys"]
        written, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", folder))
        assert written.keys() == before.keys()
        assert all(written[key].tobytes() == before[key].tobytes() for key in before)
    for key, value in theirs(again.eval(), name).items():
        # "gelu_new" and "gelu_pytorch_tanh" are one function, rounded otherwise.
        np.testing.assert_allclose(value, theirs(model, name)[key], atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ["clip", "open_clip, quick"])
def test_padding_is_not_seen_whatever_it_is(name, tmp_path):
    """OpenAI's code pads with 0, transformers with the end token."""
    model = model_of(name)
    save(model, tmp_path)
    loaded = vit_jax.load(tmp_path)
    by_zeros, by_ends = (np.asarray(ours(loaded, name, padding)["text_embedding"]) for padding in (0, END))
    np.testing.assert_array_equal(by_zeros, by_ends)
    assert error(by_ends, theirs(model, name, END)["text_embedding"]) < TOLERANCE
