"""What a run says of its data and of values that are seldom meant."""

import cv2
import numpy as np
import pytest

from tests.tiny import tiny_config, tiny_experiment
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.sources.folder import FolderSource
from vit_jax.training import inputs
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.remarks import opening


def test_the_data_is_counted():
    assert opening(tiny_experiment()) == ["10 classes, 60 training images, 50 for config.evals.val"]


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"batch_size": 1440}, "a batch of 1,440 shows each of the 60 training images 24 times"),
        ({"steps": 50000}, "50,000 steps of 16 show each of the 60 training images 13,333 times"),
        ({"data__train__classes": "(3,)", "data__eval__classes": "(3,)"}, "there is one class, '3'"),
    ],
)
def test_what_is_seldom_meant_is_remarked(changes, remark):
    found = [line for line in opening(tiny_experiment(**changes)) if line.startswith("remark: ")]
    assert remark in found[0]


def test_what_a_folder_passed_over_is_said(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / split / name / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "train" / "cat" / "notes.tiff").write_bytes(b"")
    folder = {f"data.{part}.{key}": value for part in ("train", "eval")
              for key, value in {"name": "folder", "root": str(tmp_path), "split": part.replace("eval", "test")}.items()}  # fmt: skip
    lines = opening(build_experiment(override(tiny_config(batch_size=2), folder)))
    assert lines[0] == "2 classes, 2 training images, 2 for config.evals.val"
    assert len(lines) == 2 and "tiff" in lines[1], lines


def test_workers_follow_the_cores(monkeypatch):
    folder = FolderSource("x", ["a"], [0], ("a",))
    arrays = ArraySource(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32), ("a",))
    for cores, expected in ((1, 0), (2, 0), (4, 2), (16, 8), (128, 16)):
        monkeypatch.setattr(inputs.os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert (inputs.workers_for(folder), inputs.workers_for(arrays)) == (expected, 0)


def test_the_first_unreadable_image_is_named_once(capsys):
    class Broken:
        label_names = ("a",)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            good = {"image": np.zeros((8, 8, 3), np.uint8), "label": 0}
            return good if index % 2 else {"image": b"no image", "label": 0, "path": f"photos/{index}.jpg"}

    from vit_jax.data.pipeline import TrainPipeline
    from vit_jax.data.transforms import supervised

    batch = TrainPipeline(Broken(), supervised.build(8, crop="none"), batch_size=8, seed=0, num_threads=0).batch(0)
    said = capsys.readouterr().err.splitlines()
    assert batch["corrupt"].sum() > 1 and len(said) == 1
    assert said[0].startswith("photos/") and "train/corrupt counts" in said[0]
