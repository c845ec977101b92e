"""ImageNet-C: every corruption at every severity once, and AlexNet's errors."""

import cv2
import jax
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.data.label_names import label_names
from vit_jax.evaluators import Answers
from vit_jax.evaluators.corruptions import ALEXNET
from vit_jax.training.evaluation import Evaluation, build_evaluators, judging
from vit_jax.training.inputs import build_inputs
from vit_jax.training.sharding import make_mesh

SYNSETS = ("n01440764", "n01443537")


def write(root, group, corruption, number):
    """Four images at each severity, of which as many have a white border as the severity and the number say: all of class 1."""
    for severity in range(1, 6):
        for k in range(4):
            image = np.full((8, 8, 3), 255 * (k < (severity + number) % 5), np.uint8)
            image[1:-1, 1:-1] = 0
            path = root / group / corruption / str(severity) / SYNSETS[k == 3] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def evaluate(root, keep=None):
    # Of a model that crops: the border would be lost.
    preprocess = {"resize": "short_side", "resize_to": 16}
    inputs = build_inputs(tiny_config(data__eval_batch_size=3, data__preprocess=preprocess)["data"])
    evaluators = build_evaluators({"c": {"name": "corruptions", "root": str(root)}}, inputs, 3)
    evaluators = judging(Answers(label_names("imagenet1k")[:5]), evaluators)

    def white_is_the_second(variables, batch, names, rng):
        return {"logits": jax.nn.one_hot((batch["image"][:, 0].mean((1, 2)) > 100).astype(int), 5)}

    mesh = make_mesh({}, jax.devices()[:1])
    return Evaluation(evaluators, white_is_the_second, lambda batch: batch, mesh, keep=keep).run({})


def test_errors_of_corruptions(tmp_path):
    for number, corruption in enumerate(ALEXNET):
        write(tmp_path, "noise" if number < 3 else "", corruption, number)
    files = {}
    metrics = evaluate(tmp_path, lambda name, make: files.update({name: make().decode()}))
    wanted = {}
    for number, corruption in enumerate(ALEXNET):
        white = [(severity + number) % 5 for severity in range(1, 6)]
        # The first three are of class 0, and wrong where they are white; the last is of class 1, and wrong where not.
        wanted[corruption] = np.mean([(min(n, 3) + (n < 4)) / 4 for n in white])
    assert metrics == pytest.approx({
        **{f"c/{name}": error for name, error in wanted.items()}, "c/error": np.mean(list(wanted.values())),
        "c/mce": np.mean([wanted[name] / error for name, error in ALEXNET.items()]),
    })  # fmt: skip
    rows = files["c_corruptions.csv"].splitlines()
    assert (
        rows[0].startswith("corruption,severity 1,")
        and rows[1] == "gaussian_noise,0.500000,0.750000,1.000000,0.750000,0.250000"
    )


def test_some_corruptions_alone_have_no_mean_beside_alexnet(tmp_path):
    write(tmp_path, "weather", "fog", 0)
    assert set(evaluate(tmp_path)) == {"c/fog", "c/error"}
    (tmp_path / "weather/fog/3").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="fog has no severity 3"):
        evaluate(tmp_path)
    with pytest.raises(UserError, match="holds no corruption of ImageNet-C"):
        evaluate(tmp_path / "nowhere")
