"""MAE with its decoder, of transformers: read from what it saves, and written so that it loads it."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.models.vit_mae import modeling_vit_mae

import vit_jax
from tests.parity.oracle import TOLERANCE, error, images, randomise_vit, read, read_folder, to_torch, write
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import hf_mae, hf_vit, timm_mae
from vit_jax.checkpoints.parts.sidecars import IMAGENET
from vit_jax.checkpoints.source import StoredModel, open_source
from vit_jax.checkpoints.transfer import init_from, starting_point
from vit_jax.inspection.reconstruction import can_reconstruct, reconstruct
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.posemb import SINCOS2D, sincos2d
from vit_jax.tasks.mae import masked_error, targets

SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96, "patch_size": 8}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4,
           "decoder_intermediate_size": 128}  # fmt: skip
ENCODER_TABLE, DECODER_TABLE = "vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"
# By name: what differs in the config, and whether the encoder's positions are the fixed table.
CASES = {
    "4x4": ({"image_size": 32}, True),
    "4x4, normalised": ({"image_size": 32, "norm_pix_loss": True}, True),
    "5x5, 60%": ({"image_size": 40, "mask_ratio": 0.6, "norm_pix_loss": True, "layer_norm_eps": 1e-6}, True),
    "6x6, tanh": ({"image_size": 48, "mask_ratio": 0.5, "hidden_act": "gelu_pytorch_tanh"}, True),
    "4x4, learned": ({"image_size": 32, "norm_pix_loss": True}, False),
}


def tables(side, *widths):
    """What the published files hold: zeros for the class token, then the sine-cosine table."""
    for width in widths:
        table = sincos2d((side, side), width, **SINCOS2D["sincos2d_mae"]).reshape(-1, width)
        yield torch.from_numpy(np.concatenate([np.zeros((1, width), np.float32), table])[None])


def model_of(name, **more):
    """A model of transformers with every parameter drawn anew, but for its fixed tables."""
    config, fixed = CASES[name]
    config = transformers.ViTMAEConfig(**{**SIZE, **DECODER, **config, **more})
    model = randomise_vit(transformers.ViTMAEForPreTraining(config))
    side = config.image_size // 8
    encoder, decoder = tables(side, config.hidden_size, config.decoder_hidden_size)
    with torch.no_grad():
        model.decoder.decoder_pos_embed.copy_(decoder)
        model.decoder.mask_token.mul_(20)
        if fixed:
            model.vit.embeddings.position_embeddings.copy_(encoder)
    return model


def noise_for(x):
    patches = x.shape[1] // 8 * (x.shape[2] // 8)
    return np.random.default_rng(3).permuted(np.tile(np.arange(patches) / patches, (len(x), 1)), axis=1)


def theirs(model, x):
    """What it makes of images under a mask, and the loss."""
    with torch.no_grad():
        noise = torch.from_numpy(noise_for(x).astype(np.float32))
        tokens = model.vit(to_torch(x), noise=noise).last_hidden_state
        outputs = model(to_torch(x), noise=noise)
    return {"visible": tokens, "predictions": outputs.logits, "loss": outputs.loss}


def ours(model, params, x):
    order = jnp.asarray(np.argsort(noise_for(x), axis=1))
    variables, visible = {"params": params}, model.visible(x.shape[1:3])

    @jax.jit
    def outputs(variables, x, order):
        wanted = targets(x, model.encoder.patch_size, model.normalize_pixels)
        tokens = model.apply(variables, x, order, method=lambda m, x, order: m.encoder(x, keep=order[:, :visible]))
        predictions = model.apply(variables, x, order, method="reconstruct")
        loss = masked_error(predictions, wanted, order, visible).mean()
        return {"visible": tokens, "predictions": predictions, "loss": loss}

    return jax.tree.map(np.asarray, outputs(variables, x, order))


def whole(model, x):
    """Its encoder's tokens of images of which nothing is masked, in their order."""
    model.config.mask_ratio, ratio = 0.0, model.config.mask_ratio
    patches = x.shape[1] // 8 * (x.shape[2] // 8)
    with torch.no_grad():
        noise = torch.arange(patches).expand(len(x), -1) / patches
        tokens = model.vit(to_torch(x), noise=noise, interpolate_pos_encoding=True).last_hidden_state
    model.config.mask_ratio = ratio
    return tokens


def assert_parity(name, model, loaded, *, tolerance=TOLERANCE):
    x = images(*loaded.preprocess.image_size)
    expected, found = theirs(model, x), ours(loaded.model, loaded.params, x)
    outputs, tokens = loaded.outputs(x), whole(model, x)
    errors = {key: error(found[key], expected[key]) for key in expected}
    errors["tokens"] = error(np.asarray(outputs["tokens"]), tokens)
    errors["features"] = error(np.asarray(outputs["features"]), tokens[:, 0])
    print(f"\nPARITY transformers | MAE {name} | " + ", ".join(f"{key} {value:.1e}" for key, value in errors.items()))
    assert max(errors.values()) < tolerance


@pytest.mark.parametrize("name", list(CASES))
def test_encoder_predictions_and_loss(name, tmp_path):
    config, fixed = CASES[name]
    model = model_of(name)
    model.save_pretrained(tmp_path)
    assert read(hf_mae, *read_folder(tmp_path)).kwargs["trunk"]["posemb"] == ("sincos2d_mae" if fixed else "learn")
    loaded = vit_jax.load(tmp_path)
    assert ("pos_embedding" in loaded.params["encoder"]) != fixed
    assert loaded.model.mask_ratio == config.get("mask_ratio", 0.75)
    assert loaded.model.normalize_pixels == config.get("norm_pix_loss", False)
    assert_parity(name, model, loaded)
    as_published(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, vit_jax.load(tmp_path).params, loaded.params)


@pytest.mark.parametrize("wrong", [{"gelu": "tanh"}, {"layer_norm_epsilon": 1e-6}, {"posemb": "sincos2d_moco"}])
def test_a_wrong_flag_shows(wrong, tmp_path):
    model = model_of("4x4, normalised")
    model.save_pretrained(tmp_path)
    loaded = vit_jax.load(tmp_path)
    kwargs = loaded.metadata["model"]["kwargs"]
    wrong = build_named("model", {"name": "mae", **kwargs, "trunk": kwargs["trunk"] | wrong}, "config.model")
    with pytest.raises(AssertionError, match="max"):
        assert_parity(
            "wrong",
            model,
            dataclasses.replace(loaded, task=dataclasses.replace(loaded.task, model=wrong)),
            tolerance=2 * TOLERANCE,
        )


def test_learned_positions_are_interpolated(tmp_path):
    model = model_of("4x4, learned")
    model.save_pretrained(tmp_path)
    x = images(48, 48)
    assert error(np.asarray(vit_jax.load(tmp_path, image_size=48).outputs(x)["tokens"]), whole(model, x)) < TOLERANCE


def saved(folder, model=None, **changed):
    """A folder of transformers with some tensors replaced."""
    (model or model_of("4x4")).save_pretrained(folder)
    return as_published(folder, **changed)


def as_published(folder, **changed):
    """transformers 5 saves the decoder's layers under a name that no published file has."""
    tensors = load_file(folder / "model.safetensors") | changed
    names = {name: name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.") for name in tensors}
    assert any(name.startswith("decoder.decoder_layers.1.") for name in names.values())
    tensors = {names[name]: x for name, x in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_tables_that_transformers_makes(tmp_path):
    """And those of a file in half precision."""
    made = {}
    for name, width in ((ENCODER_TABLE, 64), (DECODER_TABLE, 32)):
        table = modeling_vit_mae.build_2d_sinusoidal_position_embedding(4, 4, width, cls_token=True)
        made[name] = torch.cat([table[:, width // 2 :], table[:, : width // 2]], dim=1)[None].numpy()
    loaded = vit_jax.load(saved(tmp_path / "made", **made))
    assert "pos_embedding" not in loaded.params["encoder"]
    halves = {name: table.astype(np.float16) for name, table in made.items()}
    assert "pos_embedding" not in vit_jax.load(saved(tmp_path / "half", **halves)).params["encoder"]
    model_of("4x4").to(torch.bfloat16).save_pretrained(tmp_path / "bfloat16")
    assert "pos_embedding" not in vit_jax.load(tmp_path / "bfloat16").params["encoder"]


def test_other_tables(tmp_path):
    """A class token's position, a table of another dialect or with one wrong value: learned by the encoder, or refused."""
    encoder, decoder = (table.numpy() for table in tables(4, 64, 32))
    for i, change in enumerate([(0, 0, 0, 1e-3), (0, 7, 5, 1e-3), (0, 16, 63, np.nan)]):
        *place, much = change
        one, other = encoder.copy(), decoder.copy()
        one[tuple(place)] += much
        other[tuple(np.minimum(place, (0, 16, 31)))] += much
        loaded = vit_jax.load(saved(tmp_path / f"one{i}", **{ENCODER_TABLE: one}), allow_nonfinite=True)
        np.testing.assert_array_equal(loaded.params["encoder"]["pos_embedding"].reshape(16, 64), one[0, 1:])
        with pytest.raises(UserError, match="'decoder.decoder_pos_embed' does not hold the positions that the model"):
            vit_jax.load(saved(tmp_path / f"other{i}", **{DECODER_TABLE: other}))
    with pytest.raises(UserError, match="'decoder.decoder_pos_embed'"):
        vit_jax.load(saved(tmp_path / "zeros", **{DECODER_TABLE: np.zeros_like(decoder)}))
    with pytest.raises(UserError, match="'decoder.decoder_pos_embed'"):
        vit_jax.load(saved(tmp_path / "shape", **{DECODER_TABLE: decoder[:, :-1].copy()}))


def test_decoders_that_ours_cannot_be(tmp_path):
    with pytest.raises(UserError, match="width of 32 and 96 hidden units.*encoder alone"):
        vit_jax.load(saved(tmp_path / "hidden", model_of("4x4", decoder_intermediate_size=96)))
    with pytest.raises(UserError, match="no biases for query, key and value"):
        vit_jax.load(saved(tmp_path / "bias", model_of("4x4", qkv_bias=False)))
    model = model_of("4x4", decoder_intermediate_size=96)
    model.save_pretrained(tmp_path / "both")
    transformers.ViTMAEModel.from_pretrained(tmp_path / "both").save_pretrained(tmp_path / "alone")
    alone = read(hf_vit, *read_folder(tmp_path / "alone"))
    x = images(32, 32)
    assert error(alone.outputs(x)["tokens"], whole(model, x)) < TOLERANCE


def test_a_file_with_a_hole_or_too_much(tmp_path):
    folder = saved(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for changed, message in [
        ({"decoder.decoder_norm.bias": None}, "has no tensor 'decoder.decoder_norm.bias'"),
        ({"decoder.decoder_layers.1.output.dense.bias": None}, "has no tensor"),
        ({"decoder.mask_token": None}, "has no tensor 'decoder.mask_token'"),
        ({DECODER_TABLE: None}, "has no tensor 'decoder.decoder_pos_embed'"),
        ({"decoder.decoder_embed.weight": None}, "'decoder.decoder_embed.bias' that this model does not"),
        ({"decoder.extra": np.zeros(3, np.float32)}, "'decoder.extra' that this model does not"),
    ]:
        kept = {name: x for name, x in {**tensors, **changed}.items() if x is not None}
        save_file(kept, folder / "model.safetensors")
        with pytest.raises(UserError, match=message):
            vit_jax.load(folder)


def test_a_ratio_of_nothing(tmp_path):
    """People set it to 0 to get features of whole images."""
    saved(tmp_path, model_of("4x4", mask_ratio=0.0))
    assert vit_jax.load(tmp_path).model.mask_ratio == 0.75
    assert vit_jax.load(tmp_path, overrides={"mask_ratio": 0.5}).model.mask_ratio == 0.5


def test_without_a_config(tmp_path, capsys):
    """Sizes are in the tensors, but for the heads; the rest is what transformers takes."""
    model = model_of("4x4", num_attention_heads=1, decoder_num_attention_heads=16)
    (saved(tmp_path, model) / "config.json").unlink()
    loaded = vit_jax.load(tmp_path)
    assert "no config.json" in capsys.readouterr().err
    assert loaded.preprocess.mean == tuple(IMAGENET["mean"])
    assert_parity("without config", model, loaded)


@pytest.mark.parametrize("name", list(CASES))
def test_the_way_back(name, tmp_path):
    model_of(name).save_pretrained(tmp_path / "theirs")
    before = read(hf_mae, *read_folder(tmp_path / "theirs"))
    write(before, tmp_path / "ours", before.metadata())
    again = read(hf_mae, *read_folder(tmp_path / "ours"))
    assert again.kwargs == before.kwargs and again.published.preprocess == before.published.preprocess
    assert_parity(f"{name}, written", loaded_by_them(tmp_path / "ours"), vit_jax.load(tmp_path / "ours"))


def loaded_by_them(folder):
    model, report = transformers.ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


RUN = {"trunk": {"name": "vit", "variant": "B/8", "width": 32, "depth": 2, "mlp_dim": 48, "num_heads": 2,
                 "pooling": "token", "posemb": "sincos2d_mae", "gelu": "exact"},
       "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}  # fmt: skip


def run_of_ours(image_size=(40, 40), trunk=(), **more):
    """A source as `open_source` gives it of a run, with parameters drawn anew."""
    kwargs = {**RUN, **more, "trunk": RUN["trunk"] | dict(trunk)}
    model = build_named("model", {"name": "mae", **kwargs}, "config.model")
    shapes = init_shapes(model.init, jax.random.key(0), jnp.zeros((1, *image_size, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.2 * rng.normal(size=x.shape) + (x.ndim == 1)).astype(np.float32), shapes)
    metadata = {
        "model": {"name": "mae", "kwargs": kwargs},
        "preprocess": {"image_size": list(image_size), "resize": "short_side", "resize_to": max(image_size),
                       "interpolation": "bicubic", "mean": [120.0, 110.0, 100.0], "std": [60.0, 61.0, 62.0]},
        "labels": [], "image_size": list(image_size),
    }  # fmt: skip
    return params, StoredModel("run", metadata, lambda: (params, {}))


@pytest.mark.parametrize("trunk", [{}, {"posemb": "learn"}, {"gelu": "tanh", "dtype": "bfloat16"}])
def test_a_run_of_ours(trunk, tmp_path):
    params, source = run_of_ours(trunk=trunk, mask_ratio=0.6, normalize_pixels=True)
    export(source, tmp_path, "transformers")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["norm_pix_loss"] is True and config["mask_ratio"] == 0.6
    loaded = vit_jax.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert_parity(f"run {trunk}", loaded_by_them(tmp_path), loaded)


@pytest.mark.parametrize(
    "more",
    [
        {"trunk": {"pooling": "mean", "class_token": True}},
        {"trunk": {"pooling": "mean"}},
        {"trunk": {"posemb": "sincos2d"}},
        {"trunk": {"num_registers": 2}},
        {"trunk": {"qkv_bias": False}},
        {"trunk": {"posemb": "learn", "class_token_posemb": False}},
        {"image_size": (40, 24)},
    ],
)
def test_runs_that_it_cannot_hold(more, tmp_path):
    _, source = run_of_ours(**more)
    with pytest.raises(UserError, match="transformers has no place for this mae. Write it as orbax"):
        export(source, tmp_path, "transformers")
    assert not list(tmp_path.iterdir())


def test_reconstructions(tmp_path):
    """And of plain pixels: what is shown where nothing was seen is what the decoder says, whatever the original is."""
    saved(tmp_path, model_of("5x5, 60%", norm_pix_loss=False))
    loaded = vit_jax.load(tmp_path)
    assert can_reconstruct(loaded)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    found = reconstruct(loaded, pictures)
    hidden = (found.masked == 127).all(-1)
    assert hidden.sum() == 2 * 15 * 64
    np.testing.assert_array_equal(found.completed[~hidden], pictures[~hidden])
    changed = np.where(hidden[..., None], 255 - pictures, pictures)
    np.testing.assert_array_equal(reconstruct(loaded, changed).completed, found.completed)


def in_the_authors_names(tensors):
    """Undoes what the converter of transformers does to the names, with query, key and value in one tensor."""
    renamed = {}
    for name, x in tensors.items():
        name = name.removeprefix("vit.").replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        name = name.replace("embeddings.cls_token", "cls_token").replace("embeddings.position_embeddings", "pos_embed")
        name = name.replace("decoder.decoder_layers", "decoder_blocks").replace("encoder.layer", "blocks")
        name = name.removeprefix("decoder.").replace("intermediate.dense", "mlp.fc1")
        name = name.replace("attention.output.dense", "attn.proj").replace("output.dense", "mlp.fc2")
        name = name.replace("layernorm_before", "norm1").replace("layernorm_after", "norm2")
        renamed[re.sub("^layernorm", "norm", name)] = x
    for name in [name for name in renamed if ".query." in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("attention.attention.query", "attn.qkv")] = np.concatenate(parts)
    return renamed


@pytest.mark.parametrize("name", ["5x5, 60%", "4x4, learned"])
def test_the_authors_files(name, tmp_path):
    """They have no config: the heads are the published ones', the epsilon 1e-6."""
    config = {"layer_norm_eps": 1e-6, "num_attention_heads": 1, "decoder_num_attention_heads": 16}
    config |= {"mask_ratio": 0.75, "norm_pix_loss": True}
    model = model_of(name, **{**CASES[name][0], **config})
    theirs = vit_jax.load(saved(tmp_path / "theirs", model))
    tensors = in_the_authors_names(load_file(tmp_path / "theirs" / "model.safetensors"))
    assert {name for name in tensors if "blocks" not in name} == {
        "cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias",
        "mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_embed.bias", "decoder_norm.weight",
        "decoder_norm.bias", "decoder_pred.weight", "decoder_pred.bias"}  # fmt: skip
    save_file(tensors, tmp_path / "mae.safetensors")
    ours = vit_jax.load(tmp_path / "mae.safetensors", overrides={"normalize_pixels": True})
    assert not vit_jax.load(tmp_path / "mae.safetensors").model.normalize_pixels
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert ours.preprocess.mean == theirs.preprocess.mean and ours.preprocess.std == theirs.preprocess.std
    assert_parity(f"{name}, the authors' names", model, ours)
    assert read(timm_mae, tensors).kwargs["trunk"]["layer_norm_epsilon"] == 1e-6


@pytest.mark.parametrize("name", ["4x4", "4x4, learned"])
def test_what_goes_on_from_it_is_the_encoder(name, tmp_path):
    path = str(saved(tmp_path, model_of(name)))
    section, data = starting_point(path)
    assert section["name"] == "vit" and data["image_size"] == [32, 32]
    module = build_named("model", section, "config.model", num_classes=3)
    x = images(32, 32)
    fresh = init_shapes(lambda: module.init(jax.random.key(0), x))["params"]
    found, [report] = init_from({"params": fresh}, path)
    assert set(report.missing) == {"head/kernel", "head/bias"} and not report.resized
    assert {name.split("/")[0] for name in report.unused} == {"decoder"}
    params = open_source(path).read()[0]["encoder"]
    tokens = module.apply(
        {"params": {"encoder": params, "head": {"kernel": np.zeros((64, 3)), "bias": np.zeros(3)}}}, x
    )
    assert error(np.asarray(tokens["tokens"]), whole(model_of(name), x)) < TOLERANCE
    assert len(found) == len(jax.tree.leaves(params))
