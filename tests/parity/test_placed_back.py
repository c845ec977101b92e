"""Masks of a padded view at the photo's own size: as Segment Anything's `postprocess_masks` makes them."""

import numpy as np
import pytest
import torch

from vit_jax.data.preprocess import Preprocess


@pytest.mark.parametrize("shape", [(37, 90), (300, 41), (64, 64), (500, 640)])
def test_logits_of_a_padded_view_are_those_of_torch(shape):
    preprocess = Preprocess((64, 64), resize="pad", anchor="corner")
    placement = preprocess.placement(shape)
    rows, columns = (round(64 * side / of) for side, of in zip(shape, placement.box[2:], strict=True))
    logits = np.random.default_rng(0).normal(size=(64, 64, 3)).astype(np.float32)
    cut = torch.tensor(logits[:rows, :columns]).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(cut, shape, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(placement.inverse(shape).smooth(logits, 0), wanted.numpy(), atol=2e-5)
