"""convert: there and back, bit for bit, through every format that has a place for the model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import vit_jax
from vit_jax.checkpoints.description import task_of_model
from vit_jax.checkpoints.export import default_format, export, notes
from vit_jax.checkpoints.formats import FORMATS
from vit_jax.checkpoints.source import StoredModel, flat_shapes, nested, open_source
from vit_jax.checkpoints.transfer import flat_arrays
from vit_jax.commands.main import main
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.naming import named_module
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, vqgan

SMALL = dict(variant="mu/8", width=64, depth=2, mlp_dim=96, num_heads=1, num_classes=3)
SIZES = {"hybrid": (64, 64), "bit": (64, 64)}
LABELS = ("cat", "dog", "a fish")


def source(model="vit", **kwargs):
    """A checkpoint whose every parameter is random."""
    kwargs = (SMALL if model == "vit" else {}) | kwargs
    size = SIZES.get(model, (32, 32))
    module = named_module("model", model).build(**kwargs)
    shapes = flat_shapes(init_shapes(lambda k: module.init(k, jnp.zeros((1, *size, 3))), jax.random.key(0))["params"])
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) * 0.2 for name, shape in shapes.items()}
    metadata = {
        "format": 2,
        "step": 7,
        "config": {},
        "task": task_of_model({"name": model, "kwargs": kwargs}),
        "fields": None,
        "model": {"name": model, "kwargs": kwargs},
        "preprocess": {
            "image_size": list(size), "resize": "short_side", "resize_to": 72, "interpolation": "bicubic",
            "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375],
        },
        "labels": list(LABELS),
        "image_size": list(size),
        "product": "params",
        "frozen": [],
        "versions": {},
    }  # fmt: skip
    return StoredModel(epath.Path("memory"), metadata, lambda: (nested(params), {}))


def same_arrays(one, other):
    one, other = flat_arrays(one), flat_arrays(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), err_msg=name)


CASES = {
    "vit": source(gelu="exact", posemb_resize="bicubic_antialias"),
    "mean": source(pooling="mean", gelu="exact", posemb_resize="bicubic_antialias"),
    "hf": source(gelu="exact", posemb_resize="bicubic"),
    "original": source(),
    "map": source(pooling="map"),
}


@pytest.mark.parametrize(
    ("case", "to"),
    [
        ("vit", "timm"),
        ("hf", "transformers"),
        ("map", "npz"),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (("mean", "timm"), ("original", "npz"), ("map", "orbax"))
        ),
    ],
)
def test_there_and_back(tmp_path, case, to):
    there = CASES[case]
    target = tmp_path / ("x.npz" if to == "npz" else "there")
    written = export(there, target, to)
    assert all(path.exists() for path in written)
    loaded = vit_jax.load(target)
    same_arrays(loaded.params, there.read()[0])
    assert loaded.labels == LABELS
    rounding = {"crop": "floor"} if to == "transformers" else {}  # of an odd pixel beside the crop
    assert loaded.preprocess.to_json() == there.metadata["preprocess"] | rounding
    module = named_module("model", "vit").build(**there.metadata["model"]["kwargs"])
    x = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = jax.jit(module.apply)({"params": there.read()[0]}, x)["logits"]
    np.testing.assert_allclose(loaded.logits(x), expected, atol=1e-5)
    # And on, as a checkpoint of ours.
    export(open_source(target), tmp_path / "orbax", "orbax")
    again = vit_jax.load(tmp_path / "orbax")
    same_arrays(again.params, loaded.params)
    np.testing.assert_array_equal(again.logits(x), loaded.logits(x))


def test_a_format_that_would_give_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="(timm|transformers) (cannot keep|has no place)"):
        export(source(layer_norm_epsilon=1e-3), tmp_path / "x", "timm")
    assert not (tmp_path / "x").exists()


def test_what_a_format_cannot_keep_is_named_by_itself(tmp_path):
    """Not with all else that a block is made of."""
    there = source("swin", variant="T", width=8, depths=(1, 1), num_heads=(1, 2), window_size=4, num_classes=3)
    told = "timm cannot keep pad_order='pad_then_shift' of this model: it would be read as 'shift_then_pad'. Write"
    with pytest.raises(UserError, match=told):
        export(there, tmp_path / "x", "timm")


def test_another_way_to_resize_positions_is_said_but_not_refused(tmp_path):
    """At its own resolution the model is the same."""
    there = source(gelu="exact")
    export(there, tmp_path / "x", "timm")
    same_arrays(vit_jax.load(tmp_path / "x").params, there.read()[0])
    assert "timm interpolates position embeddings with bicubic_antialias" in notes(there, "timm")[0]
    assert notes(CASES["vit"], "timm") == notes(there, "npz") == []


@pytest.mark.parametrize("to", ["timm", "transformers", "npz", "orbax"])
def test_a_run_of_ours_leaves_in_every_format(tmp_path, to):
    """With the preprocessing that our configs have: by area, which no other library does."""
    there = source(pooling="mean")
    there.metadata["preprocess"] = Preprocess((32, 32)).to_json()
    target = tmp_path / ("x.npz" if to == "npz" else "x")
    export(there, target, to)
    same_arrays(vit_jax.load(target).params, there.read()[0])
    known = to in ("npz", "orbax")
    assert vit_jax.load(target).preprocess.interpolation == ("area" if known else "bilinear")
    assert len(notes(there, to)) == (0 if known else 2)


def test_formats_share_a_folder(tmp_path):
    for name in ("a.npz", "b.npz", "c.safetensors"):
        export(
            CASES["vit"] if name.endswith("rs") else CASES["original"],
            tmp_path / name,
            default_format(tmp_path / name, "vit"),
        )
    assert vit_jax.load(tmp_path / "a.npz").labels == vit_jax.load(tmp_path / "c.safetensors").labels == LABELS


def test_nothing_is_overwritten(tmp_path):
    export(CASES["original"], tmp_path / "x.npz", "npz")
    with pytest.raises(UserError, match="x.npz is there already"):
        export(CASES["original"], tmp_path / "x.npz", "npz")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not empty"):
        export(CASES["original"], tmp_path / "run", "orbax")


def test_names_choose_the_format(tmp_path):
    assert default_format(tmp_path / "x.npz", "vit") == "npz"
    assert default_format(tmp_path / "x.safetensors", "vit") == "timm"
    assert default_format(tmp_path / "run", "vit") == "orbax"
    assert {"orbax", "npz", "timm", "transformers", "open_clip", "efficientvit", "segment_anything"} <= set(FORMATS)


def test_the_command(tmp_path, capsys):
    export(CASES["vit"], tmp_path / "run", "orbax")
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "out" / "x.safetensors")]) == 0
    assert "x.safetensors" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_classes"] == 3
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "back")]) == 0
    same_arrays(vit_jax.load(tmp_path / "back").params, CASES["vit"].read()[0])
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "x.npz"), "--model.num_headz=1"]) == 2
    assert "Did you mean 'num_heads'?" in capsys.readouterr().err


def test_another_resolution(tmp_path):
    """load(image_size=): positions are interpolated the way that goes with the weights, the preprocessing follows."""
    export(CASES["vit"], tmp_path / "run", "timm")
    loaded = vit_jax.load(tmp_path / "run", image_size=(48, 64))
    assert loaded.preprocess.image_size == (48, 64) and loaded.params["encoder"]["pos_embedding"].shape[:2] == (6, 8)
    assert loaded.logits(np.zeros((1, 48, 64, 3), np.float32)).shape == (1, 3)
    from vit_jax.nn.posemb import interpolate_posemb

    stored = np.asarray(CASES["vit"].read()[0]["encoder"]["pos_embedding"])
    expected = interpolate_posemb(stored, (6, 8), "bicubic_antialias")
    np.testing.assert_array_equal(loaded.params["encoder"]["pos_embedding"], expected)
    assert loaded.resized == (f"encoder/pos_embedding {stored.shape[:2]} -> (6, 8)",)
    assert vit_jax.load(tmp_path / "run").resized == ()


def test_a_file_with_a_hole_or_too_much(tmp_path):
    from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors

    export(CASES["vit"], tmp_path / "run", "timm")
    path = tmp_path / "run" / "model.safetensors"
    tensors = {name: SafetensorsFile(path)[name].copy() for name in SafetensorsFile(path).shapes}

    def refused(changed, message):
        write_safetensors(path, changed)
        with pytest.raises(UserError, match=message):
            vit_jax.load(tmp_path / "run")

    refused({n: t for n, t in tensors.items() if n != "blocks.1.norm1.bias"}, "has no tensor 'blocks.1.norm1.bias'")
    refused(tensors | {"blocks.1.norm3.bias": tensors["norm.bias"]}, "has a tensor 'blocks.1.norm3.bias'")
    refused(tensors | {"blocks.1.norm1.bias": np.zeros(65, np.float32)}, r"'blocks.1.norm1.bias' of shape \[65\]")
    refused(tensors | {"head.weight": np.zeros((3, 65), np.float32)}, "'head.weight' of shape")


@pytest.mark.parametrize(
    ("name", "to"), [("x.npz", "timm"), ("x.npz", "transformers"), ("x.safetensors", "npz"), ("x.npz", "orbax")]
)
def test_a_name_of_another_format_is_refused(tmp_path, name, to):
    with pytest.raises(UserError, match=f"{name} is the name of another format than {to}. Name a folder"):
        export(CASES["vit"], tmp_path / name, to)
    assert not list(tmp_path.iterdir())


TRAINED = {
    "codes": ("vqgan", {"num_codes": 5, "latent_channels": 3, "decay": 0.9}, "compvis"),
    "gaussian": ("kl_autoencoder", {"latent_width": 2, "scale": "measured"}, "diffusers"),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_what_only_training_needs_stays_behind(kind, tmp_path):
    """A discriminator and the averages of codes; codes and the scale that training measured are in the file."""
    name, own, to = TRAINED[kind]
    kwargs = {"channels": 32, "multipliers": [1], "num_blocks": 1, "attention_levels": [], **own}
    section = {"name": name, **kwargs}
    arguments = {"model": section, "discriminator": {"num_layers": 1, "channels": 4}}
    task = vqgan.build(data=DataInfo((16, 16), ()), **arguments)
    shapes = init_shapes(lambda key: task.init(key, {"image": jnp.zeros((2, 16, 16, 3))}), jax.random.key(0))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), shapes)
    metadata = {
        "format": 2, "model": {"name": name, "kwargs": kwargs}, "task": {"name": "vqgan", "kwargs": arguments},
        "fields": None, "labels": [], "image_size": [16, 16], "preprocess": Preprocess((16, 16)).to_json(),
    }  # fmt: skip
    source = StoredModel(tmp_path, metadata, lambda: (drawn["params"], drawn["model_state"]))
    file, *_ = export(source, tmp_path / "out", to)
    loaded = vit_jax.load(file.parent)
    params = flat_arrays(loaded.params)
    assert not any("discriminator" in name for name in params) and not loaded.model_state
    np.testing.assert_array_equal(params["decoder/conv_in/kernel"], drawn["params"]["decoder"]["conv_in"]["kernel"])
    if kind == "codes":
        codes = drawn["model_state"]["codebooks"]["quantizer"]["codebook"]["codes"]
        np.testing.assert_array_equal(params["quantizer/codebook/codes"], codes)
    else:
        assert loaded.model.scale == float(drawn["model_state"]["latents"]["scale"])
