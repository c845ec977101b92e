"""The library datasets as a source; where it is not installed, the sentence that says so."""

import importlib.util
import pickle

import cv2
import numpy as np
import pytest

from vit_jax.data.sources import hf, parquet
from vit_jax.errors import UserError

installed = importlib.util.find_spec("datasets") is not None
missing = pytest.mark.skipif(not installed, reason="the library datasets is not installed: 'vit_jax[datasets]'")


def png(value):
    return cv2.imencode(".png", np.full((4, 5, 3), value, np.uint8))[1].tobytes()


@pytest.mark.skipif(installed, reason="datasets is installed")
def test_without_the_library():
    with pytest.raises(UserError, match=r"needs the library datasets, which is not installed. pip install 'vit_jax"):
        hf.build("mnist", "train")


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A data set of two splits as datasets saves it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"]),
                                  "number": datasets.Value("int64")})  # fmt: skip
    rows = {"img": [{"bytes": png(k), "path": None} for k in range(6)], "fine": [k % 2 for k in range(6)],
            "number": list(range(6))}  # fmt: skip
    parts = {"train": datasets.Dataset.from_dict(rows, features), "test": datasets.Dataset.from_dict(rows, features)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    parts["test"].to_parquet(tmp_path / "files" / "test-0.parquet")
    return tmp_path


@pytest.mark.oracle
@missing
@pytest.mark.parametrize("folder", ["set", "files"])
def test_as_saved_and_as_parquet(saved, folder):
    """The second is read through the library's own loader of folders."""
    source = hf.build(str(saved / folder), "test", cache=str(saved / "cache"))
    assert source.label_names == ("cat", "dog") and source.labels.tolist() == [0, 1] * 3
    assert source[4] == {"image": png(4), "label": 0, "path": f"{saved / folder}, row 5"}
    assert pickle.loads(pickle.dumps(source))[3] == source[3]
    ours = parquet.build(str(saved / "files/*.parquet"), label_key="fine")
    assert ours.label_names == source.label_names and len(ours) == len(source)
    for k in range(6):
        assert {**ours[k], "path": None} == {**source[k], "path": None}
    assert hf.build(str(saved / folder), "test", label_key="number", cache=str(saved / "cache")).labels.tolist() == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip


@pytest.mark.oracle
@missing
def test_mistakes(saved):
    import datasets

    with pytest.raises(UserError, match="has no split 'tset'. Did you mean 'test'"):
        hf.build(str(saved / "set"), "tset")
    with pytest.raises(UserError, match="datasets cannot open 'nobody/nothing'"):
        hf.build("nobody/nothing", "train", cache=str(saved / "cache"))
    with pytest.raises(UserError, match="has no images in 'fine'"):
        hf.build(str(saved / "set"), "test", image_key="fine")
    whole = datasets.load_from_disk(saved / "set")["test"]
    whole.save_to_disk(saved / "nameless")
    datasets.Dataset(whole.data, split=datasets.Split("test")).save_to_disk(saved / "one")
    assert len(hf.build(str(saved / "one"), "test")) == len(hf.build(str(saved / "nameless"), "any")) == 6
    with pytest.raises(UserError, match="holds the split 'test' alone, and not 'train'. Give 'test'"):
        hf.build(str(saved / "one"), "train")
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(saved / "texts")
    with pytest.raises(UserError, match="has no column of images among text, label"):
        hf.build(str(saved / "texts"), "train")
