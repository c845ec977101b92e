"""What a sample of a real image is asked to be: that image's text, or its class."""

from types import SimpleNamespace

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.evaluators import Answers
from vit_jax.evaluators.clip_score import TEXT
from vit_jax.evaluators.kept_pixels import KeptPixels

PARTS = [
    {
        "valid": np.array([1, valid]),
        "image": np.full((2, 4, 4, 3), [[[[first]]], [[[first + 1]]]], np.uint8),
        TEXT: np.array([[97 + first], [98 + first]]),
        "label": np.array([first, 1]),
    }
    for first, valid in ((0, 1), (2, 0))
]


def examples(names, fields=(), told=True):
    known = {name: SimpleNamespace(text=lambda ids: "".join(map(chr, ids))) for name in fields}
    evaluator = KeptPixels(SimpleNamespace(fields=known), 0, {}, told).judging(Answers(("no", "yes", "perhaps")))
    return evaluator.examples(lambda _: ({k: part[k] for k in ("valid", "image", *names)} for part in PARTS))


def test_each_image_has_its_own():
    for names, wanted in (
        ((TEXT, "label"), ["a", "b", "c"]),
        (("label",), ["no", "yes", "perhaps"]),
    ):
        images, prompts = examples(names, names)
        assert images[:, 0, 0, 0].tolist() == [0, 1, 2] and prompts == wanted
    assert examples((), told=False)[1] == []
    with pytest.raises(UserError, match="neither a text nor a class"):
        examples(())
