"""`vit_jax visualize`: a report that stands alone, its pictures, and models that lack parts of it."""

import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks.test_mae import mae_config
from tests.tiny import tiny_config, untrained
from vit_jax.checkpoints.description import task_of_model
from vit_jax.checkpoints.policy import Policy
from vit_jax.checkpoints.store import Store
from vit_jax.commands.main import main
from vit_jax.data.preprocess import Preprocess
from vit_jax.naming import named_module
from vit_jax.nn.init_shapes import init_shapes


def photo(path, shape=(30, 40, 3)):
    path.write_bytes(cv2.imencode(path.suffix, np.random.default_rng(0).integers(0, 255, shape, np.uint8))[1].tobytes())
    return path


def made(output):
    return sorted(p.name for p in output.iterdir())


def images_in(output):
    text = (output / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text
    return text.count("<img "), text


WEIGHTS = ["attention_distance.png", "patch_filters.png", "position_similarity.png"]


@pytest.mark.long
def test_report_and_pictures(tmp_path, capsys):
    untrained(tmp_path / "run", tiny_config(model__pooling="token"))
    names = ["a <b> ü.png", "grey.jpg", "alpha.png", "dot.png", "wide.jpg"]
    shapes = [(30, 40, 3), (9, 9, 1), (8, 8, 4), (1, 1, 3), (3, 600, 3)]
    paths = [str(photo(tmp_path / name, shape)) for name, shape in zip(names, shapes, strict=True)]
    output = tmp_path / "inside"
    assert main(["visualize", "--checkpoint", str(tmp_path / "run"), *paths, "--output", str(output)]) == 0
    assert "18 pictures" in capsys.readouterr().out
    count, text = images_in(output)
    assert count == 18 and "a &lt;b&gt; ü.png" in text and "the class token" in text
    files = made(output)
    assert {*WEIGHTS, "01_a_b_ü_heads.png", "05_wide_rollout.png"} <= set(files) and len(files) == 19
    assert all(cv2.imread(str(output / name)).std() > 5 for name in WEIGHTS)
    # Each picture has its sentence.
    assert len(re.findall(r"<figcaption>[^<]{60,}", text)) == 18


SWIN = {"variant": "T", "width": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 2}


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "pictures", "sentence"),
    [
        (
            {"name": "sparse_swin", **SWIN, "pruning_ratios": "[[0.5], [0.0]]"},
            ["01_a_kept.png", "01_a_windows.png", "attention_distance.png", "patch_filters.png"],
            "Shifted windows lie across",
        ),
        (
            {"name": "efficientvit", "variant": "B0", "widths": (8,) * 5, "depths": (1,) * 5, "head_width": 4},
            ["01_a_linear.png"],
            "flatter than a softmax",
        ),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else None,
)
def test_windows_and_linear_attention(tmp_path, model, pictures, sentence):
    own = {f"model__{key}": value for key, value in model.items()}
    untrained(tmp_path / "run", tiny_config(**own, data__image_size=(64, 64)))
    command = ["visualize", "--checkpoint", str(tmp_path / "run"), str(photo(tmp_path / "a.png"))]
    assert main([*command, "--output", str(tmp_path / "inside")]) == 0
    count, text = images_in(tmp_path / "inside")
    assert made(tmp_path / "inside") == [*pictures, "report.html"] and count == len(pictures)
    assert sentence in text


@pytest.mark.slow
def test_a_model_without_a_class_token_that_is_scanned(tmp_path):
    untrained(tmp_path / "run", tiny_config(model__pooling="map", model__scan="True"))
    command = ["visualize", "--checkpoint", str(tmp_path / "run"), str(photo(tmp_path / "a.png"))]
    assert main([*command, "--output", str(tmp_path / "inside")]) == 0
    _, text = images_in(tmp_path / "inside")
    assert "the mean patch" in text and "the pooling&#x27;s probe" in text


@pytest.mark.long
def test_registers_are_no_class_token(tmp_path):
    untrained(tmp_path / "run", tiny_config(model__num_registers=2))
    command = ["visualize", "--checkpoint", str(tmp_path / "run"), str(photo(tmp_path / "a.png"))]
    assert main([*command, "--output", str(tmp_path / "inside")]) == 0
    assert "the mean patch" in images_in(tmp_path / "inside")[1]


def write_checkpoint(workdir, name, **kwargs):
    """An untrained model as a checkpoint."""
    model = named_module("model", name).build(num_classes=2, **kwargs)
    shapes = init_shapes(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    spec = {"name": name, "kwargs": {"num_classes": 2, **kwargs}}
    metadata = {
        "config": {}, "model": spec, "task": task_of_model(spec), "fields": None, "labels": [], "image_size": [32, 32],
        "product": "params", "frozen": [], "preprocess": Preprocess((32, 32)).to_json(), "versions": {},
    }  # fmt: skip
    store = Store(workdir, Policy())
    store.save(1, {"params": params, "model_state": {}}, metadata)
    store.close()


@pytest.mark.long
def test_a_masked_autoencoder_shows_what_it_reconstructs(tmp_path):
    untrained(tmp_path / "run", mae_config())
    command = ["visualize", "--checkpoint", str(tmp_path / "run"), str(photo(tmp_path / "a.png"))]
    assert main([*command, "--output", str(tmp_path / "inside")]) == 0
    picture = cv2.imread(str(tmp_path / "inside" / "01_a_reconstruction.png"))
    assert picture.shape[1] > 2 * picture.shape[0] and picture.std() > 5
    assert "brightness and contrast, which are taken from the original" in images_in(tmp_path / "inside")[1]


def test_a_model_with_patches_but_no_attention(tmp_path, capsys):
    write_checkpoint(tmp_path / "run", "mixer", variant="S/16", depth=1, width=16)
    command = ["visualize", "--checkpoint", str(tmp_path / "run"), str(photo(tmp_path / "a.png"))]
    assert main([*command, "--output", str(tmp_path / "inside")]) == 0
    assert made(tmp_path / "inside") == ["patch_filters.png", "report.html"]
    assert "This model has no attention" in images_in(tmp_path / "inside")[1]


def test_a_model_with_neither(tmp_path, capsys):
    write_checkpoint(tmp_path / "run", "bit", variant="R50x1", stage_sizes=[1], width=8, num_groups=2)
    command = ["visualize", "--checkpoint", str(tmp_path / "run"), str(photo(tmp_path / "a.png"))]
    assert main([*command, "--output", str(tmp_path / "inside")]) == 2
    assert "The model 'bit' has no attention weights to look at" in capsys.readouterr().err
    assert not (tmp_path / "inside").exists()


@pytest.mark.long
def test_unreadable_images_are_left_out(tmp_path, capsys):
    untrained(tmp_path / "run", tiny_config())
    (tmp_path / "text.jpg").write_text("no image")
    run = ["visualize", "--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "inside")]
    assert main([*run, str(tmp_path / "text.jpg")]) == 2
    assert "1 of 1 images were left out" in capsys.readouterr().err and not (tmp_path / "inside").exists()
    assert main([*run, str(tmp_path / "text.jpg"), str(photo(tmp_path / "a.png"))]) == 2
    assert "text.jpg is not a JPEG, PNG or WebP image" in capsys.readouterr().err
    assert len(made(tmp_path / "inside")) == 7


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["gone.png"], "There is no image gone.png"),
        (["empty"], "There are no images below empty"),
        (["many"], "These are 51 images. Name at most 50"),
        (["a.png", "--output", "a.png"], "--output a.png is a file"),
        (["a.png", "--output", "no/where"], "There is no directory no for --output"),
        (["a.png", "--checkpoint", "gone"], "There is no checkpoint"),
    ],
)
def test_mistakes(extra, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "many").mkdir()
    for i in range(51):
        photo(tmp_path / "many" / f"{i}.png", (2, 2, 3))
    assert main(["visualize", "--checkpoint", "unused", *extra]) == 2
    assert message in capsys.readouterr().err
