"""The commands about data: prepare, contact-sheet and bench data."""

import importlib.util
import json

import cv2
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax.commands import contact_sheet, figures
from vit_jax.commands.main import main
from vit_jax.data.decode import decode
from vit_jax.data.sources import tfds


@pytest.fixture
def photos(tmp_path):
    for k in range(6):
        path = tmp_path / "photos" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.full((40, 60, 3), 40 * k, np.uint8))[1].tobytes())
    return tmp_path / "photos"


def test_prepare_a_folder(photos, tmp_path, capsys):
    assert main(["prepare", "mine", "--folder", str(photos), "--data-dir", str(tmp_path), "--short-side", "20"]) == 0
    assert "mine/1.0.0: 6 of 6 images in train, test" in capsys.readouterr().out
    train, test = (tfds.build("mine", split, str(tmp_path)) for split in ("train", "test"))
    assert len(train) + len(test) == 6 and train.label_names == ("a", "b")
    assert decode(test[0]["image"]).shape == (20, 30, 3)


def test_prepare_a_manifest_with_a_bad_image(photos, tmp_path, capsys):
    (photos / "a" / "0.png").write_bytes(b"no image")
    manifest = photos / "list.csv"
    manifest.write_text("path,label,split\n" + "".join(f"{'ab'[k % 2]}/{k}.png,{k % 2},fit\n" for k in range(6)))
    command = ["prepare", "mine", "--manifest", str(manifest), "--splits", "fit", "--data-dir", str(tmp_path)]
    assert main(command) == 2
    output = capsys.readouterr()
    assert "5 of 6 images in fit" in output.out
    assert "vit_jax: 1 images were left out" in output.err and "0.png is not a JPEG" in output.err
    assert len(tfds.build("mine", "fit", str(tmp_path))) == 5
    assert main(command) == 2 and "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifra10"], "Did you mean 'cifar10'"),
        (["cifar10", "--short-side", "30"], "--short-side goes with images of your own"),
        (["mine", "--folder", "nowhere"], "There is no folder nowhere"),
        (["mine", "--idx", "nowhere"], "There is no file nowhere"),
        (["mine", "--folder", ".", "--short-side", "0"], "--short-side is 0"),
    ],
)
def test_what_cannot_be_prepared(arguments, message, tmp_path, capsys):
    assert main(["prepare", *arguments, "--data-dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_stock_data_sets_need_tensorflow(tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    for installed, name, message in (
        (None, "cifar10", "pip install 'vit_jax[prepare]'"),
        # Up to the archives that it would unpack.
        (True, "imagenet2012", "manual_dir should contain two files: ILSVRC2012_img_train.tar and"),
    ):

        def find_spec(module, *package, installed=installed):
            return installed if module == "tensorflow" else real(module, *package)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        assert main(["prepare", name, "--data-dir", str(tmp_path), "--manual-dir", str(tmp_path / "archives")]) == 2
        assert message in capsys.readouterr().err


def test_contact_sheet(tmp_path, capsys, monkeypatch):
    output = tmp_path / "sheet.png"
    command = ["contact-sheet", "--config", "digits:smoke", "--output", str(output)]
    assert main([*command, "--images", "3", "--views", "2"]) == 0
    assert "3 images" in capsys.readouterr().out
    sheet = decode(output)
    assert sheet.shape[0] > 200 and sheet.shape[1] > 300 and sheet.std() > 20
    # Each image has one row, however many are asked for.
    monkeypatch.setattr(figures, "contact_sheet", lambda rows, *_: b"%d" % len(rows))
    np.savez(tmp_path / "few.npz", images=np.zeros((6, 8, 8, 3), np.uint8), labels=np.zeros(6, int))
    few = {"name": "arrays", "path": str(tmp_path / "few.npz")}
    found, count, _ = contact_sheet.sheet(tiny_config() | {"data": tiny_config()["data"] | {"train": few}}, 10, 2)
    assert (found, count) == (b"6", 6)
    assert main([*command, "--images", "0"]) == 2
    assert main([*command[:-1], str(tmp_path / "no" / "sheet.png")]) == 2
    assert "no directory" in capsys.readouterr().err


def test_contact_sheet_of_two_views(tmp_path, capsys):
    command = ["contact-sheet", "--config", "digits:smoke", "--images", "2", "--views", "3", "--output"]
    assert main([*command, str(tmp_path / "one.png")]) == 0
    assert main([*command, str(tmp_path / "two.png"), "--config.data.transform.name=two_views"]) == 0
    assert "3 times the 2 views of each" in capsys.readouterr().out
    one, two = decode(tmp_path / "one.png"), decode(tmp_path / "two.png")
    assert two.shape[1] > 1.5 * one.shape[1]


@pytest.mark.long
def test_bench_data(capsys):
    assert main(["bench", "data", "--images", "32", "--rounds", "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    for kind in ("folder", "array_record", "arrays"):
        assert set(results[kind]) == {
            "bare loop",
            "1 thread",
            "2 threads",
            "1 thread / bare loop",
            "2 threads / bare loop",
        }
        assert all(row["low"] <= row["median"] <= row["high"] for row in results[kind].values())
    assert main(["bench", "data", "--images", "32", "--rounds", "1", "--kinds", "arrays"]) == 0
    assert "bare loop" in capsys.readouterr().out
    assert main(["bench", "data", "--images", "3"]) == 2
