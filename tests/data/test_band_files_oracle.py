"""TIFF as tifffile writes it, whose channels OpenCV turns round and we turn back."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.band_files import read_bands

tifffile = pytest.importorskip("tifffile")
pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (1, "float32"), (3, "uint16"), (4, "uint16")])
def test_samples(tmp_path, byteorder, channels, dtype):
    image = (np.random.default_rng(0).random((9, 7, channels)) * 200).astype(dtype)
    kind = {"photometric": "rgb" if channels > 2 else "minisblack", "byteorder": byteorder}
    kind |= {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "x.tif", image if channels > 1 else image[..., 0], **kind)
    found = read_bands((tmp_path / "x.tif").read_bytes(), "x")
    assert found.dtype == dtype and np.array_equal(found, image)


def test_opacity_that_opencv_would_multiply_in_is_refused(tmp_path):
    image = np.full((4, 4, 4), 100, np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(UserError, match="has opacity in 8 bits"):
        read_bands((tmp_path / "x.tif").read_bytes(), "x")
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(read_bands((tmp_path / "x.tif").read_bytes(), "x"), image)


def test_pages_are_channels_and_other_layouts_are_refused(tmp_path):
    image = (np.random.default_rng(0).random((9, 7, 12)) * 60000).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", image.transpose(2, 0, 1), photometric="minisblack")
    assert np.array_equal(read_bands((tmp_path / "x.tif").read_bytes(), "x"), image)
    tifffile.imwrite(tmp_path / "y.tif", image, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match="an .npy file is always read|is damaged"):
        read_bands((tmp_path / "y.tif").read_bytes(), "x")
