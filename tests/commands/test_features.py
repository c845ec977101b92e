"""`vit_jax features`: the arrays are the model's, by name and in order, whatever interrupted the command."""

import itertools
import json

import cv2
import jax
import numpy as np
import pyarrow.parquet
import pytest

from tests.loaded import loaded_model
from vit_jax.commands import feature_files, features
from vit_jax.commands.feature_files import about_in
from vit_jax.commands.main import main
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import vit

MODEL = {"name": "vit", "kwargs": {"variant": "mu/4", "num_classes": 3}}


@pytest.fixture(scope="module")
def loaded():
    model = vit.build(variant="mu/4", num_classes=3, width=16, depth=2, mlp_dim=16, pooling="mean")
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 12, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), params)
    return loaded_model(model, params, ("a", "b", "c"), Preprocess((8, 12)), {"model": MODEL, "task": None})


@pytest.fixture
def run(loaded, monkeypatch):
    monkeypatch.setattr(features, "open_loaded", lambda arguments: loaded)
    return lambda *argv: main(["features", "--checkpoint", "x", "--batch-size", "4", *map(str, argv)])


@pytest.fixture
def folder(tmp_path):
    rng, top = np.random.default_rng(1), tmp_path / "photos"
    (top / "ä b").mkdir(parents=True)
    for i in range(11):
        path = top / ("ä b" if i % 3 == 0 else ".") / f"{i:02d}.png"
        path.write_bytes(cv2.imencode(".png", rng.integers(0, 255, (20, 30, 3), np.uint8))[1].tobytes())
    return top


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def expected(loaded, paths):
    images = np.stack([loaded.preprocess(path) for path in paths])
    first, last = loaded.intermediate(images, [0, -1])
    return {**loaded.outputs(images, ("features", "tokens")), "layer_0": first, "layer_-1": last}


ALL = ("--what", "features", "--what", "tokens", "--layer", "0", "--layer", "-1")


@pytest.mark.long
def test_arrays_are_the_model_s_and_names_are_kept(run, loaded, folder, tmp_path, capsys):
    (folder / "05.png").write_bytes(b"no picture")
    assert run(folder, *ALL, "--output", tmp_path / "x.npz") == 2
    assert "1 of 11 images were left out" in capsys.readouterr().err
    found = read(tmp_path / "x.npz")
    paths = sorted(path for path in folder.rglob("*.png") if path.name != "05.png")
    assert found["paths"].tolist() == [str(path) for path in paths]
    for name, rows in expected(loaded, paths).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], rows, atol=1e-4 * max(1, np.abs(rows).max()), err_msg=name)
    assert not (tmp_path / "x.npz.partial").exists()


def test_it_goes_on_where_it_was_interrupted(run, folder, tmp_path, capsys, monkeypatch):
    whole, path = tmp_path / "whole.npz", tmp_path / "x.npz"
    assert run(folder, *ALL, "--output", whole) == 0
    program = features.program
    calls = itertools.count()

    def interrupted(*args):
        computed = program(*args)

        def until_the_third(batch):
            if next(calls) == 2:
                raise KeyboardInterrupt
            return computed(batch)

        return until_the_third

    with monkeypatch.context() as patched:
        patched.setattr(features, "program", interrupted)
        assert run(folder, *ALL, "--output", path) == 130
    assert not path.exists()
    assert run(folder, "--layer", "9", "--output", path) == 2  # nor is anything lost by a slip of the pen
    rows = tmp_path / "x.npz.partial" / "000.rows"
    rows.write_bytes(rows.read_bytes() + b"half a row")  # of a batch that was being written
    with (tmp_path / "x.npz.partial" / "done.jsonl").open("a") as lines:
        lines.write("null\nnul")  # one line whose rows are missing, and a part of one
    capsys.readouterr()
    assert run(folder, *ALL, "--output", path) == 0
    assert "goes on behind image 4 of 11" in capsys.readouterr().err
    for name, array in read(whole).items():
        np.testing.assert_array_equal(read(path)[name], array, err_msg=name)
    with monkeypatch.context() as patched:  # what is complete is not computed again
        patched.setattr(features, "program", lambda *_: lambda _: pytest.fail("computed again"))
        assert run(folder, *ALL, "--output", path) == 0
    assert run(folder, "--layer", "9", "--output", path) == 2  # which leaves what is there as complete as it was
    with monkeypatch.context() as patched:
        patched.setattr(features, "program", lambda *_: lambda _: pytest.fail("computed again"))
        assert run(folder, *ALL, "--output", path) == 0
    (folder / "00.png").write_bytes((folder / "01.png").read_bytes())  # other images: other rows
    assert run(folder, "--output", path) == 0
    assert set(read(path)) == {"about", "paths", "features"} and len(read(path)["paths"]) == 12


def test_what_was_put_together_and_not_cleared_away(run, folder, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"

    def interrupted(*_, **__):
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(feature_files.shutil, "rmtree", interrupted)
        assert run(folder, "--output", path) == 130
    first = path.read_bytes()
    assert (tmp_path / "x.npz.partial").exists()
    assert run(folder, "--output", path) == 0
    assert path.read_bytes() == first and not (tmp_path / "x.npz.partial").exists()


def test_parquet_holds_the_same(run, folder, tmp_path):
    for suffix in ("npz", "parquet"):
        assert run(folder, *ALL, "--dtype", "float16", "--output", tmp_path / f"x.{suffix}") == 0
    arrays, table = read(tmp_path / "x.npz"), pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert table["path"].to_pylist() == arrays["paths"].tolist()
    for field in table.schema:
        if field.name != "path":
            shape = json.loads(field.metadata[b"shape"])
            rows = np.array(table[field.name].to_pylist(), np.float16).reshape(-1, *shape)
            np.testing.assert_array_equal(rows, arrays[field.name])
    assert about_in(tmp_path / "x.npz") == about_in(tmp_path / "x.parquet") is not None


def test_the_trunk_is_computed_once(loaded):
    """By the operations of the compiled programs, of outputs alone and with layers beside them."""
    batch = {"image": np.zeros((2, 8, 12, 3), np.float32)}

    def flops(*asked):
        computed = features.program(loaded, *asked)
        return computed.func.lower(*computed.args, batch).compile().cost_analysis()["flops"]

    assert flops(("features",), ("0", "-1")) < 1.1 * flops(("features",), ())


def test_what_cannot_be_had(run, folder, tmp_path, capsys):
    (tmp_path / "mine.npz").write_bytes(b"something else")
    np.savez(tmp_path / "theirs.npz", about="{}", paths=np.array(["a"]))
    for argv, sentence in (
        (
            ["--layer", "2", "--output", "x.npz"],
            "There is no layer 2. This model has 2: 0 to 1, and from the end -1 to",
        ),
        (["--layer", "encoder/block_02", "--output", "x.npz"], "There is no layer named 'encoder/block_02'. Did you"),
        (["--what", "colour", "--output", "x.npz"], "This task does not give 'colour'"),
        (["--output", "x.csv"], "does not end in .npz or .parquet"),
        (["--output", "mine.npz"], "exists and is not what this command writes"),
        (["--output", "theirs.npz"], "exists and is not what this command writes"),
        (["--batch-size", "0", "--output", "x.npz"], "--batch-size is 0"),
    ):
        assert run(folder, *argv[:-1], tmp_path / argv[-1]) == 2
        assert sentence in capsys.readouterr().err
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no picture")
    assert run(folder, "--output", tmp_path / "x.npz") == 2
    assert "None of the images could be read" in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists() and not (tmp_path / "x.npz.partial").exists()
