"""Counting a data set: figures against NumPy over all pixels at once, and lines that a config takes."""

import ast

import cv2
import numpy as np
import pytest

from vit_jax.commands.main import main
from vit_jax.commands.prepare_statistics import counted
from vit_jax.data.decode import decode
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.statistics import Statistics


def test_figures_are_numpy_s():
    """Of images of several sizes whose numbers lie far from zero, where sums of squares would lose them."""
    rng, found = np.random.default_rng(0), Statistics(4)
    images = [(1e6 + rng.normal(size=(rng.integers(3, 9), 7, 4)) * [1, 2, 3, 0]).astype(np.float32) for _ in range(20)]
    for index, image in enumerate(images):
        found.add(image, index, index % 3)
    pixels = np.concatenate([image.reshape(-1, 4) for image in images]).astype(np.float64)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-9, atol=1e-9)
    assert np.array_equal(found.low, pixels.min(0)) and np.array_equal(found.high, pixels.max(0))
    assert found.pixels == len(pixels) and found.classes == {0: 7, 1: 7, 2: 6} and found.duplicates == 0


def test_a_folder(tmp_path, capsys):
    rng = np.random.default_rng(1)
    for i in range(9):
        path = tmp_path / "train" / ("ant", "bee")[i > 5] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (6 + i % 2, 5, 3), np.uint8))
    twin = tmp_path / "train" / "ant" / "8b.png"
    twin.write_bytes((tmp_path / "train" / "ant" / "2.png").read_bytes())
    config = f"own_images:root={tmp_path}"
    assert main(["prepare", "statistics", "--config", config]) == 0
    out = capsys.readouterr().out
    files = sorted((tmp_path / "train").glob("*/*.png"))
    pixels = np.concatenate([decode(file).reshape(-1, 3) for file in files]).astype(np.float64)
    line = out.splitlines()[-1].removeprefix("config.data.preprocess = dict(")
    mean, std = (ast.literal_eval(part) for part in line.removeprefix("mean=").removesuffix(")").split(", std="))
    np.testing.assert_allclose([mean, std], [pixels.mean(0), pixels.std(0)], rtol=1e-6)
    assert Preprocess((8, 8), mean=mean, std=std).mean == mean
    assert "10 images of uint8" in out and "Sizes (height x width): 6x5 to 7x5, median 6x5, most often 6x5 (6)" in out
    assert "Classes: 2 of 2 occur, with 3 (bee) to 7 images (ant)" in out
    assert "There twice: 1 images (10.0%), the first ant/8b.png, as ant/2.png" in out.replace("train/", "")
    twin.write_bytes(b"no image")
    assert main(["prepare", "statistics", "--config", config]) == 2
    out, err = capsys.readouterr()
    assert "9 images of uint8" in out and "1 images were left out" in err and "8b.png" in err
    assert main(["prepare", "statistics", "--config", config, "--images", "2"]) == 0
    assert "2 images of uint8" in capsys.readouterr().out
    assert main(["prepare", "statistics", "--config", config, "--images", "0"]) == 2


def test_lines_for_other_channels_are_a_field(tmp_path, capsys):
    images = np.random.default_rng(2).integers(0, 60000, (6, 4, 5, 2)).astype(np.uint16)
    path = tmp_path / "x.npz"
    np.savez(path, images=images, labels=np.zeros(6, int), label_names=["a"])
    given = ["--config.data.train.name=arrays", f"--config.data.train.path={path}"]
    assert main(["prepare", "statistics", "--config", "own_images:root=x", *given]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    fields = eval(line.removeprefix("config.data.fields = "), {"__builtins__": {}, "dict": dict})
    image = build_fields(fields, Context(Preprocess((4, 5)), ("a",)))["image"]
    assert (image.channels, image.dtype) == (2, "uint16")
    np.testing.assert_allclose(image.mean, images.reshape(-1, 2).mean(0), rtol=1e-6)
    np.testing.assert_allclose(image.std, images.reshape(-1, 2).std(0, dtype=np.float64), rtol=1e-6)


def test_what_cannot_be_counted_together():
    class Two(ArraySource):
        def __getitem__(self, index):
            return {"image": np.zeros((2, 2, 1 + index), np.uint8)}

    with pytest.raises(Exception, match="Example 1 has 2 channels, those before it 1"):
        counted(Two(np.zeros((2, 2, 2, 3), np.uint8), None, ()), np.arange(2))
