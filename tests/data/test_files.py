"""Data in a bucket: a file system of fsspec in memory, under the name of a cloud."""

import io
import json

import cv2
import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from vit_jax import UserError
from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.sources import arrays, folder, manifest


class Bucket(MemoryFileSystem):
    protocol = ("az",)
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("az://"))


@pytest.fixture
def bucket():
    if epath.gpath._is_tf_installed():
        pytest.skip("where TensorFlow is installed epath uses its file systems")
    fsspec.register_implementation("az", Bucket, clobber=True)
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    Bucket.store.clear()
    yield epath.Path("az://bucket/data")
    epath.backend.fsspec_backend._get_filesystem.cache_clear()


def test_a_manifest_and_its_images(bucket):
    image = np.full((4, 6, 3), 7, np.uint8)
    (bucket / "images" / "a.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    lines = [{"path": f"images/{name}.png", "label": name} for name in "ab"]
    (bucket / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = manifest.build(str(bucket / "list.jsonl"))
    assert len(source) == 2 and source.label_names == ("a", "b")
    np.testing.assert_array_equal(decode(source[0]["image"]), image)
    with pytest.raises(UnreadableImage, match="az://bucket/data/images/b.png could not be read"):
        source[1]


def test_arrays(bucket):
    packed = io.BytesIO()
    np.savez(packed, images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.array([0, 1]))
    (bucket / "set.npz").write_bytes(packed.getvalue())
    assert len(arrays.build(str(bucket / "set.npz"))) == 2


def test_what_is_not_there(bucket):
    for build in (manifest.build, arrays.build):
        with pytest.raises(UserError, match="could not be read"):
            build(str(bucket / "gone.jsonl"))


def test_a_folder_is_refused_with_what_to_do_instead(bucket):
    with pytest.raises(UserError, match="is in a bucket.*Mount the bucket, or use a manifest"):
        folder.build(str(bucket), "train")
