"""PSNR and SSIM against scikit-image and by hand, and what the evaluator of restored photos measures and refuses."""

import math

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.evaluators import restoration
from vit_jax.evaluators.image_quality import luma, psnr, ssim
from vit_jax.evaluators.restoration import Restoration


def pair(height=40, width=33, noise=12):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    photo = 120 + 60 * np.sin(rows / 5)[..., None] * np.cos(columns[..., None] / [3, 4, 6])
    photo = np.clip(photo + rng.normal(0, 20, (height, width, 3)), 0, 255)
    other = np.clip(photo + rng.normal(0, noise, photo.shape), 0, 255)
    return photo.round().astype(np.uint8), other.round().astype(np.uint8)


@pytest.mark.oracle
@pytest.mark.parametrize("noise", [1, 12, 90])
def test_scikit_image(noise):
    metrics = pytest.importorskip("skimage.metrics")
    color = pytest.importorskip("skimage.color")
    how = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    one, other = pair(noise=noise)
    y, other_y = (color.rgb2ycbcr(image)[..., 0] for image in (one, other))
    np.testing.assert_allclose(luma(one), y, atol=1e-9)
    assert psnr(luma(one), luma(other)) == pytest.approx(
        metrics.peak_signal_noise_ratio(y, other_y, data_range=255), abs=1e-6
    )
    assert psnr(one, other) == pytest.approx(metrics.peak_signal_noise_ratio(one, other, data_range=255), abs=1e-6)
    assert ssim(luma(one), luma(other)) == pytest.approx(metrics.structural_similarity(y, other_y, **how), abs=1e-6)
    theirs = metrics.structural_similarity(one, other, channel_axis=-1, **how)
    assert ssim(one, other) == pytest.approx(theirs, abs=1e-6)


def test_ssim_by_hand():
    """One window after the other, with moments about the window's own mean."""
    one, other = (luma(image) for image in pair(16, 13))
    weights = np.exp(-((np.arange(-5, 6) / 1.5) ** 2) / 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    found = []
    for y in range(16 - 10):
        for x in range(13 - 10):
            a, b = (image[y : y + 11, x : x + 11] for image in (one, other))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 2.55**2, 7.65**2
            light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            found.append(light * (2 * both + c2) / (var_a + var_b + c2))
    assert ssim(one, other) == pytest.approx(np.mean(found), abs=1e-9)
    assert ssim(one, one) == 1 and psnr(one, one) == math.inf
    assert psnr(one, one + 1) == pytest.approx(20 * math.log10(255))


def test_borders_are_left_out_and_bicubic_stands_beside():
    photo, near = pair()
    framed = near.copy()
    framed[:2], framed[-2:], framed[:, :2], framed[:, -2:] = 0, 0, 0, 255
    far = pair(noise=60)[1]
    part = {"restored": framed[None], "bicubic": far[None], "original": photo[None], "valid": np.ones(1)}
    filler = {**part, "restored": far[None], "valid": np.zeros(1)}
    files = {}

    class Run:
        keep = staticmethod(lambda name, make: files.update({name: make()}))

        def __call__(self, pipeline):
            return iter([part, part, filler])

    metrics = Restoration(None, 2).metrics(Run())
    inner = np.s_[2:-2, 2:-2]
    assert metrics["psnr_y"] == psnr(luma(near[inner]), luma(photo[inner]))
    assert metrics["ssim_rgb"] == pytest.approx(ssim(near[inner], photo[inner]), abs=1e-12)
    assert metrics["bicubic_psnr_rgb"] == psnr(far[inner], photo[inner])
    assert (metrics["better"], metrics["images"]) == (1.0, 2)
    assert files["per_image.csv"].decode().splitlines()[0].startswith("image,psnr_y,psnr_rgb,ssim_y,ssim_rgb,bicubic_")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"scale": 3, "size": 64}, "Photos of 64x64 pixels are not divided by a scale of 3"),
        (
            {"scale": 2, "size": (64, 14)},
            "Photos of 14x64 pixels without a border of 2 are smaller than the 11x11 pixels",
        ),
        ({"scale": 2, "size": 10, "border": 0}, "smaller than the 11x11 pixels that SSIM looks at"),
    ],
)
def test_sizes_that_cannot_be_measured(arguments, what):
    with pytest.raises(UserError, match=what):
        restoration.build(lambda **_: None, **arguments)
