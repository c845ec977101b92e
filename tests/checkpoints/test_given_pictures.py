"""Pictures that samples go by: read, laid on each other, and refused where they do not fit."""

import dataclasses

import cv2
import numpy as np
import pytest

import vit_jax
from tests.tasks import test_maskgit as masked
from tests.tiny import untrained
from vit_jax import UserError
from vit_jax.checkpoints.given_pictures import check_pictures, digests, read_pictures
from vit_jax.checkpoints.sampling import asked, shapes_of
from vit_jax.commands.main import main
from vit_jax.data.decode import decode
from vit_jax.data.edges import edges
from vit_jax.data.preprocess import Preprocess
from vit_jax.tasks import Picture, Task

SIZE = (8, 12)


@dataclasses.dataclass(frozen=True)
class Painter(Task):
    """Takes all of them, two controls among them."""

    needs: tuple[str, ...] = ()

    def pictures(self, settings):
        kinds = {"image": 1, "mask": 1, "depth": 1, "control": 2}
        return {kind: Picture(kind, SIZE, count, kind in self.needs) for kind, count in kinds.items()}

    def unprompted(self, indices):
        return {"label": indices % 2}


def photo(height=16, width=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_they_are_read_and_lie_on_each_other(tmp_path):
    """A photo that is cropped: what lies on it is cropped alike, whatever its own size is."""
    given, said = photo(16, 32), []
    mask = np.zeros((16, 32), np.uint8)
    mask[:, 20:] = 255
    depth = np.tile(np.arange(32, dtype=np.uint16)[None] * 1000, (16, 1))
    for name, pixels in (("mask", mask), ("depth", depth), ("image", given[..., ::-1])):
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
    np.save(tmp_path / "depth.npy", depth.astype(np.float32))
    preprocess = Preprocess(SIZE, resize="cover")
    files = {name: str(tmp_path / f"{name}.png") for name in ("image", "mask", "depth")}
    files["control"] = ["edges:" + files["image"], photo(8, 16)]
    found = read_pictures(Painter(), None, files, preprocess, said.append)
    assert {name: x.shape for name, x in found.items()} == {
        "image": (1, 8, 12, 3), "mask": (1, 8, 12, 1), "depth": (1, 8, 12, 1), "control": (1, 8, 12, 6),
    }  # fmt: skip
    assert {x.dtype for x in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["image"][0], preprocess(given))
    # Columns 4 to 27 of the photo are seen, two for one.
    np.testing.assert_array_equal(found["mask"][0, 0, :, 0], [0] * 8 + [1] * 4)
    np.testing.assert_array_equal(found["depth"][0, 0, :, 0] // 2000, np.arange(2, 14))
    # Edges are of what the model sees, not of the larger photo.
    np.testing.assert_array_equal(found["control"][0, ..., :3], edges(preprocess.to_uint8(given)) / np.float32(255))
    assert said == ["the control is 16x8, and is resized to the image's 32x16"]
    again = read_pictures(Painter(), None, {"depth": tmp_path / "depth.npy"}, preprocess)
    np.testing.assert_array_equal(again["depth"], found["depth"])
    assert read_pictures(Painter(), None, found)["image"].base is found["image"].base
    assert digests(found)["mask"] == digests({"mask": found["mask"].copy()})["mask"] != digests(found)["depth"]


def test_rows_take_turns_and_what_is_needed_is_planned():
    images = np.stack([photo(*SIZE, seed) for seed in (1, 2)]) / np.float32(255)
    numbers = np.array([4, 5, 6])
    rows = asked(Painter(), numbers, None, (), {"image": images})(np.arange(3))
    np.testing.assert_array_equal(rows["image"], images[[0, 1, 0]])
    np.testing.assert_array_equal(rows["label"], [0, 1, 0])
    shapes = shapes_of(Painter(needs=("image", "mask", "depth")), None, 4)[0]
    assert {name: x.shape[1:] for name, x in shapes.items() if name != "label"} == {
        "image": (8, 12, 3), "mask": (8, 12, 1), "depth": (8, 12, 1),
    }  # fmt: skip


HALF = np.arange(96, dtype=np.float32).reshape(1, *SIZE, 1) % 2


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (Task(), {"image": HALF}, "takes no image.*goes by no pictures"),
        (Painter(), {"sketch": HALF}, "takes no sketch.*takes an image and a mask"),
        (Painter(needs=("depth",)), {}, "draws nothing without a depth"),
        (Painter(needs=("mask",)), {"image": HALF.repeat(3, -1)}, "draws nothing without a mask"),
        (Painter(), {"mask": HALF}, "a mask, and no image"),
        (Painter(), {"image": HALF.repeat(3, -1), "mask": HALF * 0}, "mask has one value only, 0"),
        (Painter(), {"image": HALF.repeat(3, -1), "mask": HALF * 0 + 1}, "mask has one value only, 1"),
        (Painter(), {"depth": HALF * 0}, "same everywhere"),
        (Painter(), {"depth": HALF * np.nan}, "no numbers"),
        (Painter(), {"depth": HALF[:, 1:]}, r"depth is \[1, 7, 12, 1\]"),
        (Painter(), {"control": HALF.repeat(3, -1)}, "There are 1 controls, and the model has 2"),
    ],
)
def test_what_does_not_fit_is_refused(task, given, message):
    with pytest.raises(UserError, match=message):
        check_pictures(task, None, given)


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "depth.npy").write_bytes(b"nothing")
    for given, message in (
        ({"depth": tmp_path / "depth.npy"}, "cannot be read as an array"),
        ({"depth": photo()}, r"depth is uint8 \[16, 24, 3\]"),
        ({"image": tmp_path / "missing.png"}, "missing.png"),
        ({"image": photo(), "mask": np.full((16, 24), 255, np.uint8)}, "one value only, 1"),
    ):
        with pytest.raises(UserError, match=message):
            read_pictures(Painter(), None, given)


@pytest.mark.long
def test_a_generator_of_tokens_repaints_from_the_command_line(tmp_path, capsys):
    run = untrained(tmp_path / "run", masked.config(), signed=True)
    given, mask = photo(4, 4), np.zeros((4, 4), np.uint8)
    mask[:, 2:] = 255
    cv2.imwrite(str(tmp_path / "photo.png"), given[..., ::-1])
    cv2.imwrite(str(tmp_path / "mask.png"), np.kron(mask, np.ones((2, 2), np.uint8)))
    flags = ["--image", tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "--steps", 2]

    def asking(output, *more):
        argv = ["sample", "--checkpoint", run, "--output", output, *flags, *more]
        return main([str(each) for each in argv])

    assert asking(tmp_path / "new.npz", "--paste", "--count", 2) == 0
    assert "the mask is 8x8, and is resized to the image's 4x4" in capsys.readouterr().err
    with np.load(tmp_path / "new.npz") as found:
        assert sorted(found) == ["images", "label"]
        np.testing.assert_array_equal(found["images"][:, :, :2], np.stack([given[:, :2]] * 2))
        assert (found["images"][:, :, 2:] != given[:, 2:]).any()
    # By default one of a picture, and a directory of another picture is not filled up with it.
    assert asking(f"{tmp_path}/some/", "--paste") == 0
    np.testing.assert_array_equal(decode(tmp_path / "some/000000.png")[:, :2], given[:, :2])
    cv2.imwrite(str(tmp_path / "photo.png"), given)
    assert asking(f"{tmp_path}/some/", "--paste") == 2
    assert "images of another picture" in capsys.readouterr().err
    assert asking(tmp_path / "depth.png", "--depth", tmp_path / "mask.png") == 2
    assert "'maskgit' takes no depth" in capsys.readouterr().err
    loaded = vit_jax.load(run)
    with pytest.raises(UserError, match="Pixels can be pasted back"):
        loaded.sample(1, paste=True, steps=2)
