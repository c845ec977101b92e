"""A command typed wrong is one sentence and status 2, whatever is wrong with it: never a traceback, never a page of usage."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax.commands.main import main

TRAIN = "train --config tiny.py --workdir w"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a config, text, pictures, and something of everything that a path can be."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.py").write_text(f"def get_config(arg=''):\n    return {tiny_config()!r}\n")
    (folder / "none.py").write_text("def get_config(arg=''):\n    pass\n")
    (folder / "broken.py").write_text("def get_config(arg=''):\n    return undefined_name\n")
    (folder / "notes.txt").write_text("notes\n")
    (folder / "predictions.jsonl").write_text('{"other": 1}\n')
    (folder / "empty").mkdir()
    for name in ("photo.png", "file"):
        (folder / name).write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    return folder


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # Commands and flags.
        ("", "COMMAND"),
        ("trian --config tiny.py", "There is no command 'trian'. Did you mean 'train'?"),
        ("Train", "Did you mean 'train'"),
        ("--verson", "'vit_jax' has no flag --verson. Did you mean '--version'?"),
        ("train", "required: --config"),
        ("train --config tiny.py", "--workdir is missing"),
        ("train --config", "expected one argument"),
        ("train --confg tiny.py --workdir w", "'vit_jax train' has no flag --confg. Did you mean '--config'?"),
        (f"{TRAIN} --optim.lr=3", "Values of the config are written --config.KEY=VALUE"),
        (f"{TRAIN} --steps 3", "no flag --steps"),
        (f"{TRAIN} stray", "Unrecognized arguments: stray"),
        (f"{TRAIN} --num-processes two", "--num-processes is 'two'. It must be a whole number"),
        (f"{TRAIN} --coordinator-timeout soon", "--coordinator-timeout is 'soon'"),
        ("predict --checkpoint nowhere photo.png --top many", "--top is 'many'. It must be a whole number"),
        ("predict --checkpoint nowhere photo.png --config.steps=3", "no flag --config.KEY"),
        ("convert nowhere out --to pytorch", "There is no --to 'pytorch'"),
        ("bench dta", "There is no mode 'dta'. Did you mean 'data'"),
        ("bench data --kind folder", "Did you mean '--kinds'"),
        ("bench", "Give either --config or --variant"),
        # Configs.
        ("train --config digit --workdir w", "Did you mean 'digits'"),
        ("train --config notes.txt --workdir w", "Name a file that ends in .py"),
        ("train --config empty --workdir w", "is a directory"),
        ("train --config none.py --workdir w", "get_config of none.py returns None"),
        ("train --config broken.py --workdir w", "broken.py, line 2: NameError: name 'undefined_name' is not defined"),
        (f"train --config {'x' * 300} --workdir w", "There is no config file"),
        ("train --config digits:smok --workdir w", "Did you mean 'smoke'"),
        ("train --config digits --help-me", "no flag --help-me. Did you mean '--help'"),
        ("train --config digit --help", "Did you mean 'digits'"),
        ("configs digit", "Did you mean 'digits'"),
        ("configs notes.txt", "Name a file that ends in .py"),
        ("finetune", "There is no command 'finetune'"),
        ("train --config finetune --workdir w", "needs a checkpoint"),
        ("train --config finetune:init=nowhere --workdir w", "There is no checkpoint"),
        ("train --config own_images:root=nowhere --workdir w", "nowhere"),
        ("train --config own_images:root=empty --workdir w", "empty"),
        # Values.
        (f"{TRAIN} --config.steps", "--config.steps has no value"),
        (f"{TRAIN} --config.steps=", "config.steps"),
        (f"{TRAIN} --config.steps=1{'0' * 400}", "config.steps is 1"),
        (f"{TRAIN} --config.stepz=3", "Unknown key 'config.stepz'. Did you mean 'steps'"),
        (f"{TRAIN} --config.=3", "Unknown key 'config.'"),
        (f"{TRAIN} --config.steps.x=3", "config.steps"),
        (f"{TRAIN} --config.batch_size=7.5", "config.batch_size is '7.5'"),
        (f"{TRAIN} --config.optim=none", "config.optim is None"),
        (f"{TRAIN} --config.optim.name=adam", "Did you mean 'adamw'"),
        (f"{TRAIN} --config.optim.lr=3", "Unknown key 'config.optim.lr'. Did you mean 'learning_rate'"),
        (f"{TRAIN} --config.optim.learning_rate=none", "config.optim.learning_rate is None"),
        (f"{TRAIN} --config.optim.learning_rate=-1", "config.optim.learning_rate is -1"),
        (f"{TRAIN} --config.optim.learning_rate=1e999", "config.optim.learning_rate is inf"),
        (f"{TRAIN} --config.optim.schedule=none", "config.optim.schedule is None"),
        (f"{TRAIN} --config.optim.clip_norm=-1", "config.optim.clip_norm is -1"),
        (f"{TRAIN} --config.optim.frozen=.*", "leaves nothing to train"),
        (f"{TRAIN} --config.model=none", "config.model"),
        (f"{TRAIN} --config.model.num_heads=0", "config.model.num_heads is 0"),
        (f"{TRAIN} --config.model.num_heads=5", "heads"),
        (f"{TRAIN} --config.model.width=-64", "config.model.width is -64"),
        (f"{TRAIN} --config.model.variant=B17", "There is no ViT 'B17'"),
        (f"{TRAIN} --config.model.variant=mu/5", "5"),
        (f"{TRAIN} --config.data.image_size=0", "config.data.image_size"),
        (f"{TRAIN} --config.data.train=none", "config.data.train"),
        (f"{TRAIN} --config.data.train.name=none", "There is no source named 'none'"),
        (f"{TRAIN} --config.evals.val.every=0", "config.evals.val.every is 0"),
        (f"{TRAIN} --config.evals.val.name=none", "There is no evaluator named 'none'"),
        (
            f"{TRAIN} --config.evals.knn.name=knn --config.evals.knn.train.name=digits --config.evals.knn.k=-5",
            "config.evals.knn.k is -5",
        ),
        (f"{TRAIN} --config.mesh.data=0", "config.mesh"),
        (f"{TRAIN} --config.checkpoint.every=0", "config.checkpoint.every is 0"),
        (f"{TRAIN} --config.checkpoint.keep=x", "config.checkpoint.keep is 'x'"),
        (f"{TRAIN} --config.init_from=nowhere", "There is no checkpoint"),
        # Places.
        ("train --config tiny.py --workdir ''", "--workdir is empty"),
        ("train --config tiny.py --workdir file/x", "which is a file"),
        ("train --config tiny.py --workdir /proc/x", "--workdir"),
        (f"train --config tiny.py --workdir {'x' * 300}", "longer than names of files can be"),
        ("demo --workdir file/x", "which is a file"),
        ("evaluate --checkpoint nowhere", "There is no checkpoint"),
        ("evaluate --checkpoint file", "file"),
        ("evaluate --checkpoint nowhere --output file/x.json", "is a file"),
        ("evaluate --checkpoint nowhere --output file/", "is a file"),
        ("evaluate --checkpoint nowhere --output gone/x.json", "There is no directory"),
        ("evaluate --checkpoint ''", "checkpoint"),
        ("predict --checkpoint nowhere photo.png", "There is no checkpoint"),
        ("predict --checkpoint nowhere gone.png", "There is no image"),
        ("predict --checkpoint nowhere photo.png --output file/x.jsonl", "is a file"),
        ("predict --checkpoint nowhere photo.png --output empty", "is a directory"),
        ("predict --checkpoint nowhere photo.png --output gone/x.jsonl", "There is no directory"),
        ("predict --checkpoint nowhere photo.png --output ''", "Name a path"),
        ("predict --checkpoint nowhere photo.png --output photo.png", "is not what this command writes"),
        ("predict --checkpoint nowhere photo.png --output predictions.jsonl", "is not what this command writes"),
        (f"predict --checkpoint nowhere photo.png --output {'x' * 300}", "longer than names"),
        ("visualize --checkpoint nowhere photo.png --output file", "is a file"),
        ("visualize --checkpoint nowhere photo.png --output file/x", "is a file"),
        ("convert nowhere file/x", "lies below"),
        ("convert nowhere out.npz", "There is no checkpoint"),
        ("convert nowhere", "required: DST"),
        ("report nowhere", "nowhere"),
        ("report empty", "empty"),
        ("contact-sheet --config tiny.py --output x.jpg", "does not end in .png or .txt"),
        ("contact-sheet --config tiny.py --output file/x.png", "is a file"),
        ("contact-sheet --config tiny.py --output x.png --images 0", "--images is 0"),
        ("plan --config tiny.py --topology v99:8", "v99"),
        ("plan --config tiny.py --topology cpu:x", "x"),
        ("prepare", "required: NAME"),
        ("prepare mine --folder nowhere --data-dir d", "nowhere"),
    ],
)
def test_it_is_one_sentence(capsys, line, message):
    before = set(os.listdir())
    argv = ["" if word == "''" else word for word in line.split()]
    status = main(argv)
    captured = capsys.readouterr()
    lines = [each for each in captured.err.splitlines() if not each.startswith(("WARNING", "remark"))]
    assert (status, len(lines)) == (2, 1), captured.err
    assert lines[0].startswith("vit_jax: ") and message in lines[0] and len(lines[0]) < 1500
    assert "Traceback" not in captured.err + captured.out
    assert set(os.listdir()) == before, "what is refused leaves nothing behind"


def test_predictions_of_its_own_are_replaced():
    from vit_jax.commands.output import output_file
    from vit_jax.commands.predict import _is_ours

    Path("earlier.jsonl").write_text('{"path": "a", "predictions": [["cat", 0.9]]}\n')
    assert output_file("earlier.jsonl", ours=_is_ours) == Path("earlier.jsonl")
    assert output_file("predictions.jsonl") == Path("predictions.jsonl")


def test_configs_are_listed_with_their_arguments(capsys):
    assert main(["configs"]) == 0
    out = capsys.readouterr().out
    assert "finetune  " in out and "lr=0.03" in out and "res=48" in out
    for argv in (["configs", "finetune"], ["train", "--config", "finetune:init=x", "--help"]):
        assert main(argv) == 0
        out = capsys.readouterr().out
        assert "Fine-tunes any checkpoint" in out and "lr=0.03" in out


def test_the_config_is_printed_and_nothing_is_run(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", "tiny.py", "--print-config", "--config.optim.frozen=encoder/.*"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and '"frozen": "encoder/.*"' in out and '"batch_size": 16' in out
