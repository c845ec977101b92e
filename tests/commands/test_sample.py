"""`vit_jax sample`: a toy generator, trained through the plain loop, draws into each kind of output."""

import argparse
import dataclasses
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import vit_jax
from tests import toy_generator
from tests.tasks.test_language_model import TASK as LANGUAGE_MODEL
from tests.test_fields_contract import through_every_command, written
from vit_jax.commands import sample, sample_files
from vit_jax.commands.main import main
from vit_jax.commands.sample import _usual_count
from vit_jax.data.decode import decode


@pytest.fixture(scope="module", autouse=True)
def toys():
    with toy_generator.toys():
        yield


@pytest.fixture(scope="module")
def workdir(toys):
    return toy_generator.workdir()


@pytest.fixture(scope="module")
def drawn(workdir):
    return vit_jax.load(workdir).sample(9, seed=3, guidance=0.5, temperature=0.5)


def asking(workdir, output, *flags):
    argv = ["sample", "--checkpoint", workdir, "--output", output, "--seed", 3, *flags]
    return main([str(each) for each in argv])


@pytest.mark.long
def test_a_generator_goes_through_every_other_command_too(workdir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    values = json.loads((run / "config.json").read_text())
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    images = list(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    pictures = through_every_command(values, run, logged, written(tmp_path, images), "samples/")
    assert len({path.read_bytes() for path in pictures}) == 3


GUIDED = ("--guidance", "0.5", "--temperature=0.5", "--batch-size", 8)


@pytest.mark.long
def test_one_picture_of_all(workdir, drawn, tmp_path, capsys):
    assert asking(workdir, tmp_path / "grid.png", "--count", 9, *GUIDED) == 0
    picture = decode(tmp_path / "grid.png")
    assert picture.shape == (3 * 66 + 2, 3 * 66 + 2, 3)
    # The sixth image, in the second row at the right, with eight pixels for each of its own.
    np.testing.assert_array_equal(picture[68:132, 134:198][4::8, 4::8], drawn.images[5])
    assert (picture[:2] == 255).all()
    said = json.loads((tmp_path / "grid.json").read_text())
    assert said["settings"] == {"guidance": 0.5, "temperature": 0.5, "steps": 2, "cache": True}
    assert (said["seed"], said["count"], said["prompts"]) == (3, 9, [])
    assert said["conditions"]["label"] == [i % 2 for i in range(9)] and said["checkpoint"].endswith("checkpoints/30")
    assert capsys.readouterr().out.endswith("grid.png: 9 images, and in grid.json how they were drawn\n")


@pytest.mark.long
def test_an_array_of_classes_in_turn(workdir, tmp_path):
    (tmp_path / "names.txt").write_text("1\n1\n0\n")
    wanted = vit_jax.load(workdir).sample(3, seed=3, prompts=["1", "1", "0"])
    for flags in (("--prompts", tmp_path / "names.txt"), ("--classes", "1, 1,0", "--count", 3)):
        assert asking(workdir, tmp_path / "some.npz", *flags) == 0
        with np.load(tmp_path / "some.npz") as found:
            np.testing.assert_array_equal(found["images"], wanted.images)
            np.testing.assert_array_equal(found["label"], [1, 1, 0])
    # In a picture, those of a class stand below each other.
    assert sample_files.columns_of(["0", "1", "2"], 64) == 9
    assert sample_files.columns_of(["0"], 64) is sample_files.columns_of(list("0123456789") * 3, 64) is None


def test_a_directory_goes_on_where_it_was_interrupted(workdir, drawn, tmp_path, capsys, monkeypatch):
    folder, write = tmp_path / "samples", sample_files._Folder.write

    def interrupted(self, numbers, samples):
        write(self, numbers[:3], samples[:3])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample_files._Folder, "write", interrupted)
        assert asking(workdir, f"{folder}/", "--count", 9, *GUIDED) == 130
    # Within a batch too.
    assert sorted(path.name for path in folder.glob("*.png")) == ["000000.png", "000001.png", "000002.png"]
    assert "samples has 0 of 9 images; the same command draws the others" in capsys.readouterr().err
    (folder / "000001.png").unlink()
    assert asking(workdir, folder, "--count", 9, *GUIDED) == 0
    assert "samples: 9 images, 7 of them new, and in samples.json" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir())[-2:] == ["000008.png", "samples.json"]
    found = np.stack([decode(folder / f"{i:06d}.png") for i in range(9)])
    np.testing.assert_array_equal(found, drawn.images)

    assert asking(workdir, folder, "--count", 11, *GUIDED) == 0
    assert len(list(folder.glob("*.png"))) == 11
    assert len(json.loads((folder / "samples.json").read_text())["conditions"]["label"]) == 11
    capsys.readouterr()
    for flags, what in ((("--steps", 3), "settings"), (("--classes", "1"), "prompts"), (("--seed", 4), "seed")):
        assert asking(workdir, folder, *flags, *GUIDED) == 2
        assert f"samples has images of another {what}. Name another directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--count", "0"], "--count is 0. Ask for at least 1"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--steps", "0"], "sampling.steps is 0. It must be a whole number of at least 1"),
        (["--steps", "65"], "steps is 65, and an image has 64 places. Ask for at most 64"),
        (["--steps", "few"], "sampling.steps is 'few'. It must be a whole number"),
        (["--guidance"], "--guidance has no value. Write --guidance VALUE"),
        (["--guidance", "--steps", "3"], "--guidance has no value"),
        (["--guidence", "3"], "The task 'toy_generator' has no --guidence. Did you mean '--guidance'?"),
        (["--cuont", "3"], "The task 'toy_generator' has no --cuont. Did you mean '--count'?"),
        (["--size", "64"], "has no --size. It takes --guidance, --temperature, --steps, --cache"),  # no --batch-size
        (["--control-scale", "2"], "has no --control-scale. It takes --guidance"),  # no --control
        (["--zap", "3"], "has no --zap. It takes --guidance, --temperature, --steps, --cache"),
        (["--classes", "2"], "There is no class '2'"),
        (["--classes", "1,"], "--classes '1,' has an empty name. Write names with a comma between them"),
        (["--classes", ""], "--classes '' has an empty name"),
        (["--classes", "1", "--prompt", "1"], "There are both --classes and --prompt. Give one of them"),
        (["--prompts", "nowhere.txt"], "There is no file nowhere.txt with prompts"),
        (["--output", "grid.jpg"], "--output grid.jpg does not end in .png or .npz"),
        (["--output", "nowhere/grid.png"], "There is no directory nowhere for --output"),
        (["--output", "photos"], "photos has images, and no samples.json. Name an empty directory"),
    ],
)
def test_what_cannot_be_is_one_sentence(workdir, flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    cv2.imwrite("photos/a.png", np.zeros((2, 2, 3), np.uint8))
    assert asking(workdir, "grid.png", *flags) == 2
    error = capsys.readouterr().err
    assert re.search(re.escape(message), error) and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_how_many_are_usual():
    def usual(classes, prompts, pictures):
        return _usual_count(argparse.Namespace(classes=classes), prompts, dict.fromkeys(pictures))

    assert usual(None, [], []) == usual("1,2", ["1", "2"], []) == 64
    assert usual(None, ["a", "b", "c"], []) == usual(None, ["a", "b", "c"], ["image"]) == 3
    # Each class that is named is drawn of a picture too.
    assert usual("1,2", ["1", "2"], ["image"]) == 2 and usual(None, [], ["image"]) == 1


def test_a_file_beside_that_is_not_ours_is_left_alone(workdir, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text('{"seed": 1}')
    assert asking(workdir, "config.png", "--count", "1") == 2
    assert "config.json, in which stands how samples are drawn, is there" in capsys.readouterr().err
    assert Path("config.json").read_text() == '{"seed": 1}' and not Path("config.png").exists()


def test_tasks_that_draw_no_images(workdir, monkeypatch, capsys, tmp_path):
    loaded = vit_jax.load(workdir)
    for task, message in (
        (dataclasses.replace(loaded, task=LANGUAGE_MODEL), "This task draws nothing without a prompt"),
        (
            dataclasses.replace(loaded, task=vit_jax.tasks.Task()),
            "generates nothing. Use a checkpoint of a generator of",
        ),
    ):
        monkeypatch.setattr(sample, "open_loaded", lambda arguments, task=task: task)
        assert asking(workdir, tmp_path / "grid.png") == 2
        assert message in capsys.readouterr().err
