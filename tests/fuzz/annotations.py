"""Damaged lists of objects, COCO's, SA-1B's and those of cut-outs, through the fields that draw them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes, damaged_json, damaged_value
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import coco, composites, sa1b

_PLANE = (9, 12)
_POLYGON = [[1, 2, 9, 2, 9.5, 7, 1, 7], [3, 3, 5, 3, 5, 5]]
_RUNS = {"size": [9, 12], "counts": [20, 5, 30, 6, 47]}
_PACKED = {"size": [9, 12], "counts": "d05n01a0"}
_SEGMENTATIONS = (_POLYGON, _RUNS, _PACKED)


def build(folder: Path) -> Target:
    image = cv2.imencode(".jpg", np.full((*_PLANE, 3), 90, np.uint8))[1].tobytes()
    cutout = np.zeros((8, 8, 4), np.uint8)
    cutout[2:7] = 200
    cutout = cv2.imencode(".png", cutout)[1].tobytes()

    def mutate(rng: np.random.Generator, case: Path) -> tuple[str, Path]:
        form = str(rng.choice(["coco", "sa1b", "composites"]))
        (case / "a.jpg").write_bytes(image)
        (case / "sa_1.jpg").write_bytes(image)
        if form == "composites":
            names = ["a.png", "b.png"]
            for name in names:
                (case / name).write_bytes(damaged_bytes(rng, cutout) if rng.random() < 0.2 else cutout)
            rows = [{"path": name, "category": "x", "text": "", "split": "train"} for name in names]
            (case / "cutouts.jsonl").write_bytes(b"\n".join(damaged_json(rng, row) for row in rows))
            return form, case
        segmentation = _SEGMENTATIONS[int(rng.integers(3))]
        if rng.random() < 0.5:
            segmentation = damaged_value(rng, segmentation)
        if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str) and rng.random() < 0.7:
            counts = damaged_bytes(rng, segmentation["counts"].encode("utf-8", "replace")).decode("latin1")
            segmentation = {**segmentation, "counts": counts}
        row = {"segmentation": segmentation, "bbox": [1, 2, 8, 5], "image_id": 1, "category_id": 3, "iscrowd": 0}
        content = {
            "images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [row], "categories": [{"id": 3, "name": "x"}]
        }  # fmt: skip
        content = content if form == "coco" else {"image": {}, "annotations": [row]}
        try:
            data = damaged_json(rng, content) if rng.random() < 0.4 else json.dumps(content).encode()
        except (RecursionError, ValueError):
            data = b"[" * 100_000
        (case / ("x.json" if form == "coco" else "sa_1.json")).write_bytes(data)
        return form, case

    def use(given: tuple[str, Path]) -> list[dict[str, Any]]:
        form, case = given
        if form == "coco":
            source = coco.build(str(case / "x.json"), str(case))
        elif form == "sa1b":
            source = sa1b.build(str(case))
        else:
            source = composites.build(str(case), "train", 2, _PLANE, backgrounds="textures")
        classes = len(source.label_names)
        section = {
            "image": {"name": "image"}, "masks": {"name": "masks", "max_objects": 4, "classes": classes},
            "boxes": {"name": "boxes", "count": 4, "classes": classes},
        }  # fmt: skip
        fields = build_fields(section, Context(Preprocess(_PLANE), source.label_names))
        return list(EvalPipeline(source, None, 2, num_threads=0, fields=fields).iterate())

    def wrong(batches: list[dict[str, Any]]) -> str:
        for batch in batches:
            if batch["masks"].shape[1:] != (4, *_PLANE) or batch["masks"].max() > 1:
                return f"has masks {batch['masks'].shape} up to {batch['masks'].max()}"
            if (
                batch["masks"][~batch["masks_valid"]].any()
                or not batch["masks"][batch["masks_valid"]].any(axis=(1, 2)).all()
            ):
                return "has a mask in an empty slot, or an empty one in a full slot"
            if not np.isfinite(batch["boxes"]).all():
                return "has boxes that are not finite"
        return ""

    return Target(mutate, use, wrong)
