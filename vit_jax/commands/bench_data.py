"""Images per second that the data pipeline prepares."""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from vit_jax.commands.table import table
from vit_jax.errors import UserError

KINDS = ("folder", "array_record", "arrays")
_HEIGHT, _WIDTH, _QUALITY, _SIZE, _BATCH = 375, 500, 90, 224, 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what to read from (all)")
    parser.add_argument("--images", type=int, default=512, help="images read in each measurement (default 512)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind (default 5)")


def results(arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second: median, lowest and highest over the rounds, and the medians of the rounds' ratios."""
    if arguments.images < _BATCH or arguments.rounds < 1:
        raise UserError(
            "There is too little to measure", f"Give --images of at least {_BATCH} and --rounds of 1 or more"
        )
    from vit_jax.data.pipeline import TrainPipeline
    from vit_jax.data.transforms import supervised

    steps, transform = arguments.images // _BATCH, supervised.build(_SIZE)
    results = {"batch_size": _BATCH, "images": steps * _BATCH, "rounds": arguments.rounds, "cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="vit_jax-bench-") as folder:
        for kind in arguments.kinds:
            source = _sources(folder, arguments.images)[kind]()

            def pipeline(threads: int, source: Any = source) -> Callable[[], float]:
                train = TrainPipeline(source, transform, batch_size=_BATCH, seed=0, num_threads=threads)
                return lambda: _pipeline_rate(train, steps)

            runs = {
                "bare loop": lambda source=source: _bare_rate(source, steps),
                "1 thread": pipeline(1),
                "2 threads": pipeline(2),
            }
            rates = {name: [] for name in runs}
            for turn in range(arguments.rounds + 1):
                for name, run in runs.items():
                    rate = run()
                    if turn:  # the first is for caches to warm
                        rates[name].append(rate)
            results[kind] = {name: _summary(values) for name, values in rates.items()}
            for name in ("1 thread", "2 threads"):
                ratios = [a / b for a, b in zip(rates[name], rates["bare loop"], strict=True)]
                results[kind][f"{name} / bare loop"] = _summary(ratios)
    return results


def show(results: dict[str, Any]) -> str:
    kinds = [kind for kind in KINDS if kind in results]
    names = list(results[kinds[0]])
    rows = [[name, *(_cell(results[kind][name]) for kind in kinds)] for name in names]
    return table(["images per second", *kinds], rows)


def _cell(summary: dict[str, float]) -> str:
    low, middle, high = (
        f"{summary[key]:.2f}" if summary["median"] < 10 else f"{summary[key]:.0f}" for key in ("low", "median", "high")
    )
    return f"{middle} ({low} to {high})"


def _summary(values: list[float]) -> dict[str, float]:
    return {
        key: round(function(values), 3)
        for key, function in (("median", statistics.median), ("low", min), ("high", max))
    }


def _pipeline_rate(train: Any, steps: int) -> float:
    with train.iterate() as batches:
        next(batches)  # threads and buffers have started
        began = time.perf_counter()
        for _ in range(steps):
            next(batches)
        return steps * _BATCH / (time.perf_counter() - began)


def _bare_rate(source: Any, steps: int) -> float:
    """By hand, with nothing around it: read, decode all of the image, crop, resize, flip, stack."""
    import cv2
    import numpy as np
    import simplejpeg

    from vit_jax.data.geometry import inception_crop_box

    rng, index, began = np.random.default_rng(0), 0, time.perf_counter()
    for _ in range(steps):
        images, labels = [], []
        for _ in range(_BATCH):
            example = source[index % len(source)]
            index += 1
            image = example["image"]
            if isinstance(image, bytes):
                image = simplejpeg.decode_jpeg(image, "RGB")
            top, left, height, width = inception_crop_box(*image.shape[:2], rng)
            image = image[top : top + height, left : left + width]
            shrinks = height >= _SIZE and width >= _SIZE
            image = cv2.resize(image, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
            images.append(cv2.flip(image, 1) if rng.random() < 0.5 else image)
            labels.append(example["label"])
        np.stack(images), np.array(labels, np.int32)
    return steps * _BATCH / (time.perf_counter() - began)


def _sources(folder: str, count: int) -> dict[str, Callable[[], Any]]:
    from vit_jax.data.array_record import write
    from vit_jax.data.decode import decode
    from vit_jax.data.sources import arrays, tfds
    from vit_jax.data.sources import folder as folders

    def jpegs() -> Any:
        root = os.path.join(folder, "jpegs")
        if not os.path.exists(root):
            _write_jpegs(root, min(count, 256))
        return folders.build(root, "train")

    def array_record() -> Any:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            write("bench_jpegs", {"train": jpegs()}, folder)
        return tfds.build("bench_jpegs", "train", folder)

    def array() -> Any:
        import numpy as np

        source = jpegs()
        images = np.stack([decode(source[index]["image"]) for index in range(len(source))])
        return arrays.ArraySource(images, source.labels, source.label_names)

    return dict(zip(KINDS, (jpegs, array_record, array), strict=True))


def _write_jpegs(root: str, count: int) -> None:
    for index, image in enumerate(photos(count)):
        path = os.path.join(root, "train", str(index % 10))
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, f"{index}.jpg"), "wb") as file:
            file.write(image)


def photos(count: int) -> Iterator[bytes]:
    """JPEGs with the detail of photos: random parts, turned and lit differently, of scikit-learn's two."""
    import numpy as np
    import simplejpeg
    from sklearn.datasets import load_sample_images

    from vit_jax.data import geometry

    originals, rng = load_sample_images().images, np.random.default_rng(0)
    for _ in range(count):
        image = originals[rng.integers(len(originals))]
        box = geometry.inception_crop_box(*image.shape[:2], rng, area=(0.3, 1.0))
        top, left, height, width = box
        image = geometry.resize(image[top : top + height, left : left + width], (_HEIGHT, _WIDTH))
        image = geometry.flip(image) if rng.random() < 0.5 else image
        image = np.clip(image * rng.uniform(0.7, 1.3, 3), 0, 255).astype(np.uint8)
        yield simplejpeg.encode_jpeg(image, _QUALITY)
