"""A checkpoint is fine-tuned on a folder of images by naming the two."""

import json

import cv2
import numpy as np
import pytest

from tests.tiny import tiny_config, untrained
from vit_jax import load
from vit_jax.commands.main import main


@pytest.mark.long
def test_a_checkpoint_and_a_folder_are_enough(tmp_path):
    rng = np.random.default_rng(0)
    for channel, name in ((2, "red"), (1, "green")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            image = rng.integers(0, 80, (12, 16, 3), dtype=np.uint8)
            image[..., channel] += 150
            cv2.imwrite(str(tmp_path / "photos" / name / f"{i}.png"), image)
    untrained(tmp_path / "pretrained", tiny_config())
    spec = f"finetune:init={tmp_path}/pretrained,data={tmp_path}/photos"
    size = ["--config.steps", "8", "--config.batch_size=8", "--config.optim.schedule.warmup_steps=2"]
    assert main(["train", "--config", spec, "--workdir", str(tmp_path / "run"), *size]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["val/accuracy"] == 1
    assert load(tmp_path / "run").labels == ("green", "red")
