"""Damaged files of well-known sets: CIFAR's pickles, ImageNet's archives and devkit, ReaL's labels, Parquet."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes, damaged_json
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.plain_pickle import read_pickle
from vit_jax.data.sources import cifar, imagenet, parquet

_SYNSETS = ("n01440764", "n01443537")


def build(folder: Path) -> Target:
    image = cv2.imencode(".png", np.zeros((3, 4, 3), np.uint8))[1].tobytes()
    pixels = np.arange(2 * 3072, dtype=np.uint8).reshape(2, -1)
    batches = [
        pickle.dumps({b"data": pixels, b"labels": [0, 1], b"more": (1, 2.5, None, True, "é")}, protocol)
        for protocol in (0, 2, 4)
    ]
    names = pickle.dumps({"label_names": ["a", "b"]}, 2)
    train = _tar({f"{s}.tar": _tar({f"{s}_{k}.JPEG": image for k in range(2)}) for s in _SYNSETS})
    val = _tar({f"ILSVRC2012_val_{k + 1:08d}.JPEG": image for k in range(3)})
    meta = io.BytesIO()
    kind = [(name, "O") for name in ("ILSVRC2012_ID", "WNID", "num_children")]
    savemat(meta, {"synsets": np.array([(k + 1, s, 0) for k, s in enumerate(_SYNSETS)], kind)})
    table = io.BytesIO()
    pq.write_table(
        pa.table({"image": [{"bytes": image, "path": ""}] * 5, "label": [0, 1, 2, 0, 1]}), table, row_group_size=2
    )

    def mutate(rng: np.random.Generator, case: Path) -> tuple[str, Path]:
        def write(name: str, data: bytes, damage: bool = True) -> None:
            path = case / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(damaged_bytes(rng, data) if damage else data)

        match rng.integers(5):
            case 0:
                batch = batches[int(rng.integers(3))]
                write("cifar-10-batches-py/test_batch", batch, rng.random() < 0.9)
                write("cifar-10-batches-py/batches.meta", names, rng.random() < 0.3)
                return "cifar", case
            case 1:
                write("ILSVRC2012_img_train.tar", train)
                return "train", case
            case 2:
                write("ILSVRC2012_img_val.tar", val, rng.random() < 0.3)
                which = int(rng.integers(3))
                write("ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue(), which == 0)
                write("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", b"1\n2\n1\n", which == 1)
                real = json.dumps([[0], [], [1, 999]]).encode() if which < 2 else damaged_json(rng, [[0], [], [1, 999]])
                write("real.json", real.encode() if isinstance(real, str) else real, False)
                return "val", case
            case 3:
                rows = "ImageId,PredictionString\n" + "".join(
                    f"ILSVRC2012_val_{k + 1:08d},{_SYNSETS[k % 2]} 1 2 3 4 \n" for k in range(3)
                )
                write("LOC_val_solution.csv", rows.encode())
                write("ILSVRC2012_img_val.tar", val, False)
                return "val", case
        write("t.parquet", table.getvalue())
        return "parquet", case

    def use(given: tuple[str, Path]) -> Any:
        kind, case = given
        if kind == "cifar":
            read_pickle(case / "cifar-10-batches-py/test_batch")
            return cifar.build(str(case), "test")
        if kind == "parquet":
            source = parquet.build(str(case / "t.parquet"))
        else:
            real = str(case / "real.json") if (case / "real.json").exists() else None
            source = imagenet.build(str(case), kind, real)
        for k in range(len(source)):
            try:
                assert isinstance(source[k]["image"], bytes)
            except UnreadableImage:  # training replaces it
                continue
        return source

    return Target(mutate, use, lambda source: "" if len(source) else "holds no image")


def _tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()
