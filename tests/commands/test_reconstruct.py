"""`vit_jax reconstruct`: pairs, decibels, and how many tokens."""

import cv2
import numpy as np
import pytest

import vit_jax
from tests.tasks import test_vqvae
from tests.tiny import tiny_config, untrained
from vit_jax.commands.main import main
from vit_jax.data.decode import decode


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(untrained(tmp_path_factory.mktemp("vqvae") / "run", test_vqvae.config()))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate("abc"):
        image = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1])
    return folder


def test_pairs_and_their_decibels(checkpoint, photos, tmp_path, capsys):
    base = ["reconstruct", "--checkpoint", checkpoint, str(photos), "--batch-size", "2", "--output"]
    assert main([*base, str(tmp_path / "pairs.png")]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    loaded = vit_jax.load(checkpoint)
    images = np.stack([decode(path) for path in sorted(photos.iterdir())])
    found = loaded.outputs({"image": images}, ("reconstruction", "indices"))
    made = np.round(255 * np.asarray(found["reconstruction"])).astype(np.uint8)
    errors = np.square(made.astype(float) - images).mean((1, 2, 3))
    decibels = 10 * np.log10(255**2 / errors)
    assert printed[0] == ["image", "PSNR", "tokens"]
    for row, path, value, indices in zip(
        printed[2:5], sorted(photos.iterdir()), decibels, found["indices"], strict=True
    ):
        assert row == [str(path), f"{value:.2f}", str(len(np.unique(indices)))]
    assert printed[5][:4] == ["mean", "of", "3", f"{decibels.mean():.2f}"]

    picture = decode(tmp_path / "pairs.png")  # one row of three pairs, eight times as large
    assert picture.shape == (68, 6 * 66 + 2, 3)
    for i in range(3):
        for j, image in enumerate((images[i], made[i])):
            left = 2 + 66 * (2 * i + j)
            np.testing.assert_array_equal(picture[2:66, left : left + 64][4::8, 4::8], image)

    # Into a directory each by itself; one that cannot be read is named at the end.
    (photos / "b.png").write_bytes(b"no image")
    assert main([*base, f"{tmp_path}/pairs/"]) == 2
    output = capsys.readouterr()
    assert "1 of 3 images were left out" in output.err and "mean of 2" in output.out
    (photos / "c.png").rename(photos / "c\x1b[2J.png")  # a name that clears the terminal
    assert main(base[:-1]) == 2 and "\x1b" not in capsys.readouterr().out
    (photos / "c\x1b[2J.png").rename(photos / "c.png")
    assert sorted(path.name for path in (tmp_path / "pairs").iterdir()) == ["000000_a.png", "000002_c.png"]
    pair = decode(tmp_path / "pairs" / "000002_c.png")
    np.testing.assert_array_equal(pair, np.concatenate([images[2], np.full((8, 4, 3), 255), made[2]], axis=1))


def test_what_cannot_be_is_one_sentence(checkpoint, photos, tmp_path, capsys):
    classifier = str(untrained(tmp_path / "classify", tiny_config()))
    for argv, message in (
        (["--checkpoint", classifier, str(photos)], "gives no images back. Use a checkpoint of an image tokenizer"),
        (["--checkpoint", checkpoint, str(tmp_path / "nowhere")], "There is no image"),
        (["--checkpoint", checkpoint, str(photos), "--output", "pairs.jpg"], "pairs.jpg does not end in .png"),
        (["--checkpoint", checkpoint, str(photos), "--batch-size", "0"], "--batch-size is 0"),
    ):
        assert main(["reconstruct", *argv]) == 2
        assert message in capsys.readouterr().err
