"""The palette of a run's images: k-means, a checkpoint that a generator starts from, and the clusters of others."""

import json

import jax
import numpy as np
import pytest

import vit_jax
from tests.tasks.test_autoregressive import config as generator_config
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.models.color_palette import ColorPalette, even_palette
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.palette import fitted

CONFIG = ["--config", "color_palette:smoke,res=4,colors=5", "--config.batch_size=16"]


def test_colours_by_hand():
    """Three heaps of pixels: their means, from dark to bright."""
    rng = np.random.default_rng(0)
    heaps = np.array([[200, 180, 190], [20, 30, 10], [90, 80, 200]])
    pixels = np.uint8(heaps[rng.integers(0, 3, 3000)] + rng.integers(-5, 6, (3000, 3)))
    np.testing.assert_allclose(fitted(pixels, 3), heaps[[1, 2, 0]], atol=1)
    with pytest.raises(UserError, match="1 different colours, fewer than 2"):
        fitted(np.zeros((9, 3), np.uint8), 2)


def test_an_even_palette_is_a_cube():
    assert len(np.unique(even_palette(512), axis=0)) == 512
    assert even_palette(8).tolist() == [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    assert len(np.unique(even_palette(20), axis=0)) == 20


def test_the_nearest_colour():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 3)).astype(np.float32)
    palette = np.random.default_rng(1).uniform(-1, 1, (7, 3)).astype(np.float32)
    model = ColorPalette(7)
    found = model.apply({"params": {"palette": palette}}, images, method="tokenize")
    distances = np.square(images.reshape(2, 12, 1, 3) - palette).sum(-1)
    np.testing.assert_array_equal(found, distances.argmin(-1))
    back = model.apply({"params": {"palette": palette}}, found, model.grids((3, 4)), method="detokenize")
    np.testing.assert_array_equal(back, palette[distances.argmin(-1)].reshape(2, 3, 4, 3))


@pytest.mark.long
def test_a_generator_starts_from_what_the_command_writes(tmp_path, capsys):
    palette = tmp_path / "palette"
    assert main(["prepare", "palette", *CONFIG, "--images", "64", "--output", str(palette)]) == 0
    assert "palette: 5 colours" in capsys.readouterr().out
    loaded = vit_jax.load(palette)
    colours = loaded.params["palette"]
    assert (np.diff(colours.sum(1)) > 0).all() and np.abs(colours).max() <= 1
    images = np.stack([loaded.preprocess(np.full((4, 4, 3), grey, np.uint8)) for grey in (0, 255)])
    assert loaded.outputs(images, ("indices",))["indices"][:, 0].tolist() == [0, 4]

    values = generator_config(steps=3) | {"init_from": {"tokenizer": str(palette)}}
    values["optim"] = values["optim"] | {"frozen": ["tokenizer/.*"]}
    train(build_experiment(values), tmp_path / "run", jax.devices()[:1])
    np.testing.assert_array_equal(vit_jax.load(tmp_path / "run").params["tokenizer"]["palette"], colours)

    assert main(["prepare", "palette", *CONFIG, "--output", str(palette)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_clusters_of_others(tmp_path, capsys):
    clusters = np.linspace(-1, 1, 15).reshape(5, 3)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"clusters": clusters.tolist()}))
    command = ["prepare", "palette", "--clusters", str(file), "--output"]
    assert main([*command, str(tmp_path / "out"), *CONFIG]) == 0
    np.testing.assert_array_equal(vit_jax.load(tmp_path / "out").params["palette"], np.float32(clusters))
    assert main([*command, str(tmp_path / "other"), "--config", "color_palette:smoke,res=4,colors=6"]) == 2
    assert "There are 5 colours, and the config asks for 6" in capsys.readouterr().err
    for wrong in (
        "{}",
        '{"clusters": [[1, 2, 3], [4]]}',
        '{"clusters": [["a", "b", "c"]]}',
        '{"clusters": [[1, 2, {}]]}',
    ):
        file.write_text(wrong)
        assert main([*command, str(tmp_path / "other"), *CONFIG]) == 2
        assert "has no clusters of three numbers" in capsys.readouterr().err
    for place, what in ((file, "preprocessor_config.json is a file"), (file / "out", "which is a file"), ("", "is ''")):
        assert main(["prepare", "palette", *CONFIG, "--output", str(place)]) == 2
        assert what in capsys.readouterr().err
    assert main(["prepare", "palette", "--config", "vqvae:smoke", "--output", str(tmp_path / "other")]) == 2
    assert "has no palette" in capsys.readouterr().err
