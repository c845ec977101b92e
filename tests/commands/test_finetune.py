"""A checkpoint is fine-tuned on a folder of images by naming the two."""

import json

import cv2
import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, untrained
from vit_jax import UserError, load
from vit_jax.commands.main import main
from vit_jax.nn.resize import resize_bicubic
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train


def photos_in(folder):
    """Of two classes, named by their colours."""
    rng = np.random.default_rng(0)
    for channel, name in ((2, "red"), (1, "green")):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            image = rng.integers(0, 80, (12, 16, 3), dtype=np.uint8)
            image[..., channel] += 150
            cv2.imwrite(str(folder / name / f"{i}.png"), image)


def test_the_config_takes_what_the_checkpoint_says(tmp_path):
    """Its model and preprocessing, and the classes of the folder; nothing is trained."""
    photos_in(tmp_path / "photos")
    untrained(tmp_path / "pretrained", tiny_config(model__depth=1))
    spec = f"finetune:init={tmp_path}/pretrained,data={tmp_path}/photos,res=16,smoke"
    experiment = build_experiment(load_config(spec))
    model, task = experiment.values["model"], experiment.task
    assert (model["variant"], model["depth"], model["pooling"]) == ("mu/4", 1, "mean")
    assert experiment.metadata["labels"] == ["green", "red"] and task.model.num_classes == 2
    assert experiment.metadata["image_size"] == [16, 16]
    assert experiment.config.init_from == f"{tmp_path}/pretrained"
    assert experiment.pipeline.batch(0)["image"].shape == (8, 16, 16, 3)
    with pytest.raises(UserError, match="needs a checkpoint to start from"):
        load_config("finetune:data=photos")


@pytest.mark.long
def test_a_checkpoint_and_a_folder_are_enough(tmp_path):
    photos_in(tmp_path / "photos")
    untrained(tmp_path / "pretrained", tiny_config())
    spec = f"finetune:init={tmp_path}/pretrained,data={tmp_path}/photos"
    size = ["--config.steps", "8", "--config.batch_size=8", "--config.optim.schedule.warmup_steps=2"]
    assert main(["train", "--config", spec, "--workdir", str(tmp_path / "run"), *size]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["val/accuracy"] == 1
    assert load(tmp_path / "run").labels == ("green", "red")


@pytest.mark.long
def test_swin_goes_on_with_larger_windows(tmp_path):
    """From 224 pixels and windows of 7 to 384 and 12, as its recipe has it: tables of relative positions follow."""
    photos_in(tmp_path / "photos")
    model = {"name": "swin", "variant": "T", "width": 16, "depths": [2, 1], "num_heads": [1, 2], "patch_size": 16}
    pretrained = {**tiny_config(), "model": {**model, "window_size": 7}}
    pretrained["data"] = {**pretrained["data"], "image_size": [224, 224]}
    untrained(tmp_path / "pretrained", pretrained, signed=True)
    config = load_config(f"swin_finetune384:init={tmp_path}/pretrained,smoke")
    photos = {"name": "folder", "root": str(tmp_path / "photos"), "split": "train"}
    config["data"] |= {"train": photos, "eval": photos}
    few = {"steps": "2", "optim.schedule.warmup_steps": "1", "model.dtype": "float32"}
    train(build_experiment(override(config, few)), tmp_path / "run", jax.devices()[:1])
    assert "val/accuracy" in json.loads((tmp_path / "run" / "summary.json").read_text())
    before, after = (load(tmp_path / name).params["encoder"] for name in ("pretrained", "run"))
    name = "relative_position_bias_table"
    for stage, block in (("stage_0", "block_01"), ("stage_1", "block_00")):
        old, new = (np.asarray(tree[stage][block][name]) for tree in (before, after))
        assert old.shape[0] == 13**2 and new.shape[0] == 23**2
        followed = resize_bicubic(old.reshape(13, 13, -1), (23, 23), antialias=False).reshape(new.shape)
        np.testing.assert_allclose(new, followed, atol=2e-3)  # two steps with a learning rate of 4e-5
