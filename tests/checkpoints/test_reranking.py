"""Samples are ranked by their cosines with the text, by towers that are formulas; with models in tests/tasks/test_dalle."""

from types import SimpleNamespace

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.checkpoints.reranking import best_samples

TEXTS = {"red": np.array([1.0, 0.0, 0.0]), "blue": np.array([0.0, 0.0, 1.0])}


def judge_of(images):
    means = np.stack([image.mean((0, 1)) for image in images])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


JUDGE = SimpleNamespace(
    check_two_towers=lambda: None,
    embed_texts=lambda prompts, batch_size: np.stack([TEXTS[prompt] for prompt in prompts]),
    embed_images=lambda images, batch_size: judge_of(images),
)


def generator(drawn):
    asked = []
    return SimpleNamespace(generate=lambda prompts, **how: asked.append(how) or [drawn] * len(prompts)), asked


def test_the_best_are_first_and_said_which_they_are():
    colours = [(90, 90, 90), (200, 20, 20), (20, 20, 200), (120, 20, 60)]
    drawn = [np.full((2, 2, 3), colour, np.uint8) for colour in colours]
    ours, asked = generator(drawn)
    red, blue = best_samples(ours, JUDGE, ["red", "blue"], samples=4, keep=3, seed=5, temperature=0.5)
    assert asked == [{"samples": 4, "seed": 5, "batch_size": 32, "temperature": 0.5}]
    assert red.numbers == (1, 3, 0) and blue.numbers == (2, 0, 3)
    np.testing.assert_array_equal(red.images[1], drawn[3])
    np.testing.assert_allclose(red.scores[0], 200 / np.linalg.norm([200, 20, 20]))
    assert len(best_samples(ours, JUDGE, ["red"], samples=4)[0].images) == 4


def test_what_cannot_be_ranked():
    for keep in (0, 5):
        with pytest.raises(UserError, match=f"{keep} of 4 samples cannot be kept"):
            best_samples(generator([])[0], JUDGE, ["red"], samples=4, keep=keep)
    with pytest.raises(UserError, match="are no images"):
        best_samples(generator(["a text"])[0], JUDGE, ["red"], samples=1)
