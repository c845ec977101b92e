"""Images in Parquet files, by index, whichever row groups are in memory."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vit_jax.data.decode import UnreadableImage
from vit_jax.data.sources import parquet
from vit_jax.errors import UserError
from vit_jax.training.inputs import build_inputs


def png(value):
    return cv2.imencode(".png", np.full((4, 5, 3), value, np.uint8))[1].tobytes()


IMAGES = [png(k) for k in range(17)]


def write(path, rows=slice(None), group=3, names=None, **columns):
    """A table as the hub keeps one: images as bytes and a path, classes named in the schema."""
    cells = [{"bytes": image, "path": f"{k}.png"} for k, image in enumerate(IMAGES)][rows]
    table = pa.table({"image": cells, "label": [k % 3 for k in range(17)][rows], **columns})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return table


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "train-0.parquet", slice(0, 10), names=["cat", "dog", "eel"])
    write(tmp_path / "train-1.parquet", slice(10, None), names=["cat", "dog", "eel"])
    return str(tmp_path / "train-*.parquet")


@pytest.mark.parametrize("most", [2**30, 0])
def test_rows_are_read_by_index(files, most, monkeypatch):
    """With all row groups kept, and with four of the seven."""
    monkeypatch.setattr(parquet, "_MOST_IN_MEMORY", most)
    monkeypatch.setattr(parquet, "_OPEN", 1)
    source = parquet.build(files)
    assert len(source) == 17 and source.label_names == ("cat", "dog", "eel")
    order = np.random.default_rng(0).permutation(17)
    with ThreadPoolExecutor(4) as pool:
        for index, example in zip(order, pool.map(source.__getitem__, order.tolist()), strict=True):
            assert (example["image"], example["label"]) == (IMAGES[index], index % 3)
    assert len(source._kept) == (7 if most else 4) and len(source._open) == 1
    assert pickle.loads(pickle.dumps(source))[16] == source[16] and source[16]["path"].endswith("1.parquet, row 7")


def test_batches_are_a_function_of_the_step(files):
    section = {"image_size": [4, 5], "train": {"name": "parquet", "paths": files}, "transform": {"name": "supervised"}}
    inputs = build_inputs(section | {"num_workers": 0})
    first, second = (inputs.train_pipeline(inputs.train_source(), 4, 0) for _ in range(2))
    batches = [first.batch(step) for step in range(5)]
    for step in (4, 0, 2):
        again = second.batch(step)
        assert all(np.array_equal(batches[step][name], again[name]) for name in again)
        np.testing.assert_array_equal(again["image"][:, 0, 0, 0] % 3, again["label"])


def test_texts_and_plain_bytes(tmp_path):
    pq.write_table(
        pa.table({"png": IMAGES[:3], "kind": ["b", "a", "b"], "note": ["x", "y", "z"]}), tmp_path / "t.parquet"
    )
    with pytest.raises(UserError, match="several columns of labels: kind, note. Name one: label_key"):
        parquet.build(str(tmp_path / "t.parquet"))
    source = parquet.build(str(tmp_path / "t.parquet"), label_key="kind")
    assert source.label_names == ("a", "b") and [source[k]["label"] for k in range(3)] == [1, 0, 1]
    assert source[2]["image"] == IMAGES[2]
    wider = parquet.build(str(tmp_path / "t.parquet"), label_key="kind", label_names=["b", "c", "a"])
    assert [wider[k]["label"] for k in range(3)] == [0, 2, 0]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"label": [1]}, {}, "has no column of images among label"),
        ({"image": [b""]}, {}, "has no column of labels among image. Name one: label_key"),
        ({"image": [b"x"], "label": [1]}, {"label_key": "lable"}, "has no column 'lable'. Did you mean 'label'"),
        ({"image": [b"x"] * 2, "label": [1, None]}, {}, "has no label in row 2"),
        ({"image": [b"x"] * 2, "label": [1, -1]}, {}, "has the label -1 in row 2, outside its 2 classes"),
        (
            {"image": [b"x"], "label": ["a"]},
            {"label_names": ["b"]},
            "has the label 'a' in row 1, outside its 1 classes",
        ),
        ({"image": [b"x"], "label": [5]}, {"label_names": ["b"]}, "has the label 5 in row 1, outside its 1 classes"),
        ({"image": [b"x"], "label": [0.5]}, {"label_key": "label"}, "has the label 0.5 in row 1"),
    ],
)
def test_mistakes(tmp_path, columns, settings, message):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=message):
        parquet.build(str(tmp_path / "t.parquet"), **settings)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"There are no files of images. Give paths, or patterns such as .*\.parquet"):
        parquet.build([])
    write(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"PAR1"):
        (tmp_path / "t.parquet").write_bytes(data)
        with pytest.raises(UserError, match=r"t\.parquet is no Parquet file, or is cut short"):
            parquet.build(str(tmp_path / "t.parquet"))
    (tmp_path / "t.parquet").write_bytes(whole)
    pq.write_table(pa.table({"other": [1]}), tmp_path / "u.parquet")
    with pytest.raises(UserError, match="u.parquet has other columns than"):
        parquet.build([str(tmp_path / "t.parquet"), str(tmp_path / "u.parquet")])
    pq.write_table(pa.table({"image": pa.array([None, b"x"], pa.binary()), "label": [0, 0]}), tmp_path / "v.parquet")
    with pytest.raises(UnreadableImage, match="v.parquet, row 1 has no bytes of an image in 'image'"):
        parquet.build(str(tmp_path / "v.parquet"))[0]
