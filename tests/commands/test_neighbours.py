"""`vit_jax neighbours`: the order is the cosines', of images, of a cache and of a file of features."""

import cv2
import jax
import numpy as np
import pytest

from tests.loaded import loaded_model
from vit_jax.commands import features, neighbours
from vit_jax.commands.main import main
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import vit


@pytest.fixture(scope="module")
def loaded():
    model = vit.build(variant="mu/4", num_classes=3, width=16, depth=1, mlp_dim=16, pooling="mean")
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    given = {"model": {"name": "vit", "kwargs": {}}, "task": None}
    return loaded_model(model, params, ("a", "b", "c"), Preprocess((8, 8)), given)


@pytest.fixture
def run(loaded, monkeypatch):
    for command in (features, neighbours):
        monkeypatch.setattr(command, "open_loaded", lambda arguments: loaded)
    return lambda command, *argv: main([command, "--checkpoint", "x", "--batch-size", "4", *map(str, argv)])


@pytest.fixture
def folder(tmp_path):
    rng, top = np.random.default_rng(1), tmp_path / "photos"
    top.mkdir()
    for i in range(6):
        image = rng.integers(0, 255, (8, 8, 3), np.uint8)
        (top / f"{i}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return top


def listed(capsys):
    return [line.split("/")[-1] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.long
def test_the_order_is_that_of_the_cosines(run, loaded, folder, tmp_path, capsys):
    paths = sorted(folder.iterdir())
    rows = np.asarray(loaded.features(np.stack([loaded.preprocess(path) for path in paths])))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    order = [paths[i].name for i in np.argsort(-(rows @ rows[2])) if i != 2]
    page = tmp_path / "page.html"
    for more in ([], ["--output", page], ["--cache", tmp_path / "cache"], ["--cache", tmp_path / "cache"]):
        assert run("neighbours", folder / "2.png", folder, "--top", 4, *more) == 0
        assert listed(capsys) == order[:4]
    assert page.read_text().count("<img") == 5  # itself, and four others
    assert run("features", folder, "--output", tmp_path / "x.npz") == 0
    capsys.readouterr()
    assert run("neighbours", folder / "2.png", "--features", tmp_path / "x.npz") == 0
    assert listed(capsys) == order


def test_what_cannot_be_compared(run, loaded, folder, tmp_path, capsys, monkeypatch):
    query = folder / "2.png"
    assert run("features", folder, "--what", "tokens", "--output", tmp_path / "tokens.npz") == 0
    (tmp_path / "other.npz").write_bytes(b"x")
    for argv, sentence in (
        ([query], "There is nothing to look in"),
        ([query, folder, "--features", "x.npz"], "There are both images and --features to look in"),
        ([query, "--features", tmp_path / "missing.npz"], "There is no file"),
        ([query, "--features", tmp_path / "other.npz"], "is no .npz of features"),
        ([query, "--features", tmp_path / "tokens.npz"], "has no 'features' of one vector an image"),
        ([query, folder, "--what", "tokens"], "The output 'tokens' is not one vector an image"),
        ([query, query], "There is no other image"),
        ([folder, folder], "has 6 images"),
    ):
        assert run("neighbours", *argv) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setitem(loaded.metadata, "task", {"name": "features"})  # another model
    assert run("neighbours", query, "--features", tmp_path / "tokens.npz") == 2
    assert "was made with x, another model than x" in capsys.readouterr().err
