"""`vit_jax predict`: order, batches, threads that decode ahead, what cannot be read, and the progress bar."""

import io
import itertools
import json
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.loaded import loaded_model
from vit_jax import UserError
from vit_jax.commands import predict
from vit_jax.commands.image_files import expand, left_out, read_ahead
from vit_jax.commands.main import main
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import vit
from vit_jax.nn.classification_loss import probabilities
from vit_jax.nn.init_shapes import init_shapes

CLASSES = 7


@pytest.fixture(scope="module")
def loaded():
    """A model whose answers differ from image to image, with all parameters random."""
    import jax

    model = vit.build(variant="mu/4", num_classes=CLASSES, width=16, depth=1, mlp_dim=16, pooling="mean")
    shapes = init_shapes(lambda: model.init(jax.random.key(0), np.zeros((1, 8, 12, 3), np.float32)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)
    labels = tuple(f"class {i}" for i in range(CLASSES))
    return loaded_model(model, params, labels, Preprocess((8, 12)))


@pytest.fixture
def run(loaded, monkeypatch):
    """The command on that model."""
    monkeypatch.setattr(predict, "open_loaded", lambda arguments: loaded)
    return lambda *argv: main(["predict", "--checkpoint", "x", *map(str, argv)])


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "sub").mkdir()
    for i in range(11):
        path = tmp_path / ("sub" if i % 3 == 0 else ".") / f"{i:02d}.png"
        path.write_bytes(cv2.imencode(".png", rng.integers(0, 255, (20, 30, 3), np.uint8))[1].tobytes())
    return tmp_path


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    top = tmp_path / ".cache" / "photos"  # what the user names is taken, hidden or not
    seen = [top / "a.jpg", top / "sub" / "b.PNG"]
    hidden = [top / ".c.jpg", top / ".thumbnails" / "d.jpg", top / ".trash" / "sub" / "e.jpg", top / "sub" / ".f.png"]
    for path in (*seen, *hidden, top / "notes.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert expand([str(top)]) == seen
    assert expand([str(hidden[1])]) == [hidden[1]]
    with pytest.raises(UserError, match="no images below"):
        (tmp_path / "only" / ".thumbnails").mkdir(parents=True)
        (tmp_path / "only" / ".thumbnails" / "g.jpg").touch()
        expand([str(tmp_path / "only")])


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_answers_are_those_of_the_model_in_the_order_of_the_images(loaded, folder, batch_size):
    paths = sorted(folder.rglob("*.png"), reverse=True)
    answers = list(predict.predict(loaded, paths, batch_size))
    assert [path for path, _ in answers] == paths
    expected = np.asarray(probabilities(loaded.logits(np.stack([loaded.preprocess(p) for p in paths])), "softmax"))
    assert len(np.unique(expected.round(3), axis=0)) == len(paths)  # so that a mix-up would show
    for row, (_, answer) in zip(expected, answers, strict=True):
        ranked = answer.best(3)
        order = np.argsort(-row)[:3]
        assert [name for name, _ in ranked] == [f"class {i}" for i in order]
        np.testing.assert_allclose([p for _, p in ranked], row[order], rtol=1e-5)


def test_unreadable_images_anywhere_do_not_move_the_others(run, folder, tmp_path, capsys):
    good = sorted(p.name for p in folder.rglob("*.png"))
    for name in ("00a.jpg", "05a.jpg", "99.jpg"):
        (folder / name).write_text("no image")
    output = tmp_path / "out.jsonl"
    assert run(folder, "--output", output, "--batch-size", 2, "--top", 100) == 2
    error = capsys.readouterr().err
    assert "3 of 14 images were left out: " in error and all(n in error for n in ("00a.jpg", "05a.jpg", "99.jpg"))
    found = rows(output)
    assert sorted(Path(row["path"]).name for row in found) == good
    assert all(len(row["predictions"]) == CLASSES for row in found)
    assert run(folder, "--output", tmp_path / "one.jsonl", "--batch-size", 1) == 2
    for row, one in zip(found, rows(tmp_path / "one.jsonl"), strict=True):
        assert row["path"] == one["path"] and row["predictions"][0][0] == one["predictions"][0][0]


def test_none_can_be_read(run, tmp_path, capsys):
    for i in range(25):
        (tmp_path / f"{i:02d}.jpg").write_text("no image")
    assert run(tmp_path, "--batch-size", 4) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "25 of 25 images were left out" in captured.err
    assert "19.jpg" in captured.err and "20.jpg" not in captured.err and "and 5 more" in captured.err


def test_names_that_are_no_text(run, folder, capsysbinary, monkeypatch):
    odd = folder / "odd"
    odd.mkdir()
    source = (folder / "01.png").read_bytes()
    try:
        with open(bytes(odd) + b"/\xff.png", "wb") as file:
            file.write(source)
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict"))
    assert run(odd) == 0
    sys.stdout.flush()
    assert b"class" in sys.stdout.buffer.getvalue()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_is_on_stderr_when_that_is_a_terminal(run, folder, capsys, monkeypatch):
    assert run(folder) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and len(captured.out.splitlines()) == 11
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(folder) == 0  # stdout is no terminal
    assert "/11" in terminal.getvalue() and len(capsys.readouterr().out.splitlines()) == 11


def test_reading_ahead_has_a_bound_and_ends(folder):
    started, threads = [], set()

    def read(path):
        started.append(path)
        threads.add(threading.current_thread())
        return path

    stream = read_ahead(read, range(1000), 6)
    assert [value for _, value in itertools.islice(stream, 5)] == list(range(5))
    time.sleep(0.05)
    assert 5 <= len(started) <= 5 + 6
    assert threading.current_thread() not in threads
    stream.close()
    before = len(started)
    for thread in threads:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in threads) and len(started) <= before + len(threads)


def test_what_is_no_fault_of_the_image_is_raised():
    def read(path):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_ahead(read, [Path("a")], 2))


def test_all_are_named_in_one_sentence():
    assert str(left_out([UserError("a is damaged", "Remove it"), UserError("b is empty", "Fill it")], 9)) == (
        "2 of 9 images were left out: a is damaged; b is empty. Remove it."
    )
