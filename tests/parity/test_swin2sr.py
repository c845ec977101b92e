"""Swin2SR of transformers: enlarged images at several sizes, files in both directions."""

import numpy as np
import pytest
import torch
import transformers

from tests.parity.oracle import assert_close, read, read_folder, write
from tests.parity.test_swin_v2 import randomised
from vit_jax import UserError
from vit_jax.checkpoints.families import hf_swin2sr
from vit_jax.checkpoints.load import load
from vit_jax.checkpoints.published import Sidecar

SIZE = {"embed_dim": 12, "depths": [2, 3], "num_heads": [2, 3], "window_size": 4, "image_size": 16}
KWARGS = {"width": 12, "depths": [2, 3], "num_heads": [2, 3], "upsampler": "pixelshuffle"}


def theirs(**more):
    """Parameters drawn anew, in a fresh model whose constants nobody drew: the mean of pixels and the distances."""
    make = lambda: transformers.Swin2SRForImageSuperResolution(transformers.Swin2SRConfig(**SIZE, **more))  # noqa: E731
    model = make()
    model.load_state_dict(randomised(make()).state_dict())
    return model.eval()


def enlarged(model, pixels):
    """What transformers makes of pixels from 0 to 1, [B, H, W, 3]. Of its own accord it fails where windows do not
    divide the image, which it mirrors up to that: here that is done before."""
    height, width = pixels.shape[1:3]
    pixels = np.pad(pixels, [(0, 0), (0, -height % 4), (0, -width % 4), (0, 0)], mode="reflect")
    with torch.no_grad():
        found = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).reconstruction
    scale = model.config.upscale
    return found.numpy().transpose(0, 2, 3, 1)[:, : scale * height, : scale * width]


@pytest.mark.parametrize(
    ("more", "kwargs"),
    [
        ({"upscale": 2, "img_range": 2.0}, {"scale": 2}),
        ({"upscale": 4, "mlp_ratio": 3.0}, {"scale": 4, "mlp_ratio": 3.0}),
        ({"upscale": 3, "upsampler": "pixelshuffledirect"}, {"scale": 3, "upsampler": "pixelshuffledirect"}),
        ({"upscale": 3, "layer_norm_eps": 1e-3}, {"scale": 3, "norm_epsilon": 1e-3}),
    ],
)
def test_transformers(more, kwargs, tmp_path):
    model = theirs(**more)
    model.save_pretrained(tmp_path / "theirs")
    ours = read(hf_swin2sr, *read_folder(tmp_path / "theirs"))
    assert ours.kwargs == {**KWARGS, "window_size": 4, **kwargs}
    mean, std = (np.float32(ours.published.preprocess[key]) for key in ("mean", "std"))
    for size in ((16, 16), (13, 22), (24, 8)):
        pixels = np.random.default_rng(0).uniform(0, 1, (2, *size, 3)).astype(np.float32)
        found = ours.outputs((255 * pixels - mean) / std)["restored"] * std + mean
        assert_close(found / 255, enlarged(model, pixels), f"{size}")
    write(ours, tmp_path / "ours", ours.metadata(()))
    back = transformers.Swin2SRForImageSuperResolution.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(enlarged(back, pixels), enlarged(model, pixels))
    again = read(hf_swin2sr, *read_folder(tmp_path / "ours"))
    assert again.kwargs == ours.kwargs and again.published.preprocess == ours.published.preprocess
    wrong = ours.outputs((255 * pixels - mean) / std, window_size=8)["restored"]
    assert np.abs(wrong * std + mean - 255 * found).max() > 1


def test_a_published_file_enlarges_photos(tmp_path):
    """As the task and with the pixels that it was trained with."""
    model = theirs(upscale=2)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (1, 12, 20, 3), np.uint8)
    restored = loaded.outputs({"image": photo}, ("restored",))["restored"]
    wanted = np.clip(255 * enlarged(model, photo.astype(np.float32) / 255), 0, 255)
    np.testing.assert_allclose(restored, wanted, atol=0.03)
    assert loaded.fields["high"].scale == 2 and loaded.task.answered_by == ("restored",)


def test_published_sizes():
    for name, more in (
        ("classical", {}),
        ("lightweight", {"embed_dim": 60, "depths": [6] * 4, "num_heads": [6] * 4, "upsampler": "pixelshuffledirect"}),
    ):
        with torch.device("meta"):
            model = transformers.Swin2SRForImageSuperResolution(transformers.Swin2SRConfig(**more))
        shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        published = hf_swin2sr.describe(shapes, Sidecar(config=model.config.to_dict()))
        assert published.kwargs == {"variant": name, "scale": 2}


def test_other_upsamplers_are_refused():
    shapes = {
        key: tuple(tensor.shape) for key, tensor in theirs(upscale=4, upsampler="nearest+conv").state_dict().items()
    }
    config = transformers.Swin2SRConfig(**SIZE, upscale=4, upsampler="nearest+conv").to_dict()
    with pytest.raises(UserError, match=r"upsampler.*is nearest\+conv, which vit_jax does not have"):
        hf_swin2sr.describe(shapes, Sidecar(config=config))
