"""A photo that is embedded once and asked many times: where prompts go, where masks come back, what is refused."""

import functools

import cv2
import jax
import numpy as np
import pytest

from tests.answering import SIDE, answering
from tests.loaded import loaded_model
from vit_jax import UserError
from vit_jax.checkpoints.prompted import Prompted, stability, to_photo
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import vit
from vit_jax.nn.prompts import NOT_A_POINT, PADDING

PAD = Preprocess((32, 32), resize="pad", anchor="corner", interpolation="bilinear")
rng = np.random.default_rng(0)
PHOTO = rng.integers(0, 256, (48, 96, 3), np.uint8)  # a third of its size in the frame, whose lower half is padding


@functools.cache
def prompted():
    return answering(PAD).prompted(PHOTO)


def test_one_click_has_three_answers_and_the_best_comes_first():
    found = prompted()(points=[(50, 20)])
    assert found.masks.shape == (3, 48, 96) and found.masks.dtype == bool and found.logits.shape == (3, SIDE, SIDE)
    assert (np.diff(found.iou) <= 0).all()
    two = prompted()(points=[(50, 20), (10, 40)], labels=[1, 0])
    assert two.masks.shape == (1, 48, 96)
    assert prompted()(points=[(50, 20)], box=(20, 10, 60, 40)).masks.shape == (1, 48, 96)
    assert prompted()(box=(20, 10, 60, 40)).masks.shape == (3, 48, 96)


def test_prompts_are_put_where_the_model_sees_the_photo():
    found = prompted()(points=[(60, 30)])
    points, labels = np.float32([[[20, 10], [0, 0]]]), np.int32([[1, 4]])
    logits, _, picked = prompted().predict(points, labels)
    np.testing.assert_array_equal(found.logits[0], logits[0, picked[0]])
    # The model was asked in its own pixels: elsewhere the answer is another one.
    other = prompted().predict(points + 3, labels)[0]
    assert np.abs(other - logits).max() > 0.1
    # More slots that hold nothing change nothing.
    padded = prompted().predict(
        np.pad(points, ((0, 0), (0, 2), (0, 0))), np.pad(labels, ((0, 0), (0, 2)), constant_values=-1)
    )
    np.testing.assert_allclose(padded[0], logits, atol=1e-5)


def test_an_answer_or_a_mask_of_the_photo_may_be_the_next_prompt():
    first = prompted()(points=[(60, 30)])
    again = prompted()(points=[(60, 30)], mask=first.logits[0])
    assert again.masks.shape[0] == 1  # two prompts
    expected = prompted().predict(np.float32([[[20, 10], [0, 0]]]), np.int32([[1, 4]]), first.logits[:1])[0]
    np.testing.assert_allclose(again.logits[0], expected[0, 0], atol=1e-5)
    drawn = np.zeros((48, 96), np.uint8)
    drawn[:24, 48:] = 255  # the upper right quarter of the photo is that of the upper half of the frame
    asked = np.full((1, SIDE, SIDE), -10, np.float32)
    asked[:, :4, 8:] = 10
    expected = prompted().predict(np.zeros((1, 2, 2), np.float32), np.full((1, 2), -1, np.int32), asked)
    np.testing.assert_allclose(
        prompted()(mask=drawn).logits[0], expected[0][0, 1:][np.argmax(expected[1][0, 1:])], atol=1e-5
    )


def test_masks_come_back_as_two_bilinear_resizings():
    """To the frame, without its padding, and to the photo, as the authors do it."""
    logits = rng.normal(size=(3, SIDE, SIDE)).astype(np.float32)
    found = prompted().at_photo(logits)
    for got, one in zip(found, logits, strict=True):
        frame = cv2.resize(one, (32, 32), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(got, cv2.resize(frame[:16], (96, 48), interpolation=cv2.INTER_LINEAR), atol=1e-4)


def test_of_what_a_crop_does_not_show_nothing_is_known():
    placement = Preprocess((32, 32), resize="short_side", resize_to=32).placement((48, 96))
    rows, columns = to_photo(placement, (48, 96), (SIDE, SIDE))
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)
    shown = columns.sum(1) > 0.5
    assert shown.sum() == 48 and shown[24:72].all()


def test_stability_is_the_overlap_of_two_thresholds():
    logits = np.float32([[[-2, -0.5, 0.5, 2], [3, -3, -3, -3]], [[-5] * 4] * 2])
    np.testing.assert_allclose(stability(logits), [2 / 4, 0])
    np.testing.assert_allclose(stability(logits, offset=0.0), [1, 0])


def test_the_photo_is_embedded_once():
    loaded, seen = answering(PAD), []
    embed = type(loaded.task.model).embed
    ask = loaded.prompted(PHOTO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(loaded.task.model), "embed", lambda *a, **k: seen.append(1) or embed(*a, **k))
        jax.clear_caches()
        ask(points=[(5, 5)])
        ask(points=[(50, 20), (10, 40)])
    assert not seen


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "There is no prompt"),
        ({"points": [(96, 10)]}, r"point 96,10 lies outside of the photo, which is 96x48. Give x below 96"),
        ({"points": [(5, -1)]}, "point 5,-1 lies outside"),
        ({"points": [(5, 5)], "labels": [2]}, r"1 points with the labels \[2\]"),
        ({"points": [(5, 5)], "labels": [1, 0]}, "1 points with the labels"),
        ({"box": (10, 10, 10, 20)}, "box 10,10,10,20 has no area, or is turned round"),
        ({"box": (30, 10, 10, 20)}, "turned round. Give left, top, right and bottom"),
        ({"box": (10, 10, 97, 20)}, "lies outside of the photo"),
        ({"mask": np.zeros((96, 48), np.uint8)}, "The mask is 48x96, and the photo 96x48"),
        ({"mask": np.zeros((8, 8), np.float32)}, "The mask is 8x8"),
    ],
)
def test_prompts_that_mean_nothing(asked, said):
    with pytest.raises(UserError, match=said):
        prompted()(**asked)


def test_a_model_without_prompts_is_refused():
    model = vit.build("mu/4", num_classes=2)
    with pytest.raises(UserError, match="x takes no prompts. Use a checkpoint of SAM"):
        loaded_model(model, {}, ["a", "b"], Preprocess((8, 8))).prompted(PHOTO)


def test_a_text_is_one_more_prompt():
    loaded = answering(PAD)
    texts = {"a wheel": np.float32([1, -0.5]), "a hub": np.float32([2, 3])}
    photo = Prompted(loaded.task, loaded.variables, loaded.preprocess, PHOTO, texts.get)
    found = photo(text="a wheel")
    assert found.masks.shape[0] == 3  # a single prompt, which may mean several things
    nothing, no_box = np.zeros((1, 2, 2), np.float32), np.int32([[NOT_A_POINT, PADDING]])
    logits, _, picked = photo.predict(nothing, no_box, meant=texts["a wheel"][None])
    np.testing.assert_array_equal(found.logits[0], logits[0, picked[0]])
    assert np.abs(photo(text="a hub").logits[0] - found.logits[0]).max() > 1
    point = photo(text="a wheel", points=[(60, 30)])
    assert point.masks.shape[0] == photo(text="a wheel", box=(20, 10, 60, 40)).masks.shape[0] == 1
    np.testing.assert_allclose(
        point.logits[0], photo(points=[(60, 30)], mask=np.zeros((SIDE, SIDE), np.float32)).logits[0] + 0.5, atol=1e-5
    )
    with pytest.raises(UserError, match="The text is empty. Say what is meant"):
        photo(text="  ")
    with pytest.raises(UserError, match="takes no text as a prompt. Use a checkpoint of the task 'sam_text'"):
        prompted()(text="a wheel")
