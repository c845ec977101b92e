"""Loaders side by side: JPEGs of 500x375 to random-resized crops of 224 with flips, in batches of 32.

    python benchmarks/loaders.py
    python benchmarks/loaders.py --cores 1 --images 256 --sampling 420 --json loaders.json

Each loader has a process of its own, which may use as many cores as are said, and they take turns: a round is one turn
of each. What is printed is the median over rounds, with the lowest and the highest: images for a second of processor
time, of all threads and worker processes of a loader together, which other programs on the machine disturb less than
the clock, and images for a second on the clock.

tf.data crops while it decodes and resizes bilinearly without averaging, which is less work than averaging; so is ours
in the row that says so. torch resizes with Pillow, which averages. A loader whose packages are missing is left out.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from vit_jax.commands.table import table

SIZE, BATCH, AREA, ASPECT = 224, 32, (0.05, 1.0), (3 / 4, 4 / 3)
Batches = Iterator[Any]


def bare_loop(folder: Path, cores: int) -> Batches:
    """By hand, in one thread: decode all of it, crop, resize, flip, stack."""
    import cv2
    import numpy as np
    import simplejpeg

    from vit_jax.data.geometry import inception_crop_box, resize
    from vit_jax.data.sources import folder as folders

    source, rng, index = folders.build(str(folder / "jpegs"), "train"), np.random.default_rng(0), 0
    while True:
        images = []
        for _ in range(BATCH):
            image = simplejpeg.decode_jpeg(source[index % len(source)]["image"], "RGB")
            index += 1
            top, left, height, width = inception_crop_box(*image.shape[:2], rng, AREA, ASPECT)
            image = resize(image[top : top + height, left : left + width], (SIZE, SIZE))
            images.append(cv2.flip(image, 1) if rng.random() < 0.5 else image)
        yield np.stack(images)


def ours(folder: Path, cores: int, kind: str = "folder", **resizing: Any) -> Batches:
    """The pipeline with a thread for each core."""
    from vit_jax.data.pipeline import TrainPipeline
    from vit_jax.data.sources import folder as folders
    from vit_jax.data.sources import tfds
    from vit_jax.data.transforms import supervised

    if kind == "folder":
        source = folders.build(str(folder / "jpegs"), "train")
    else:
        source = tfds.build("loaders_jpegs", "train", str(folder))
    transform = supervised.build(SIZE, area=AREA, aspect=ASPECT, **resizing)
    yield from TrainPipeline(source, transform, batch_size=BATCH, seed=0, num_threads=cores).iterate()


def tf_data(folder: Path, cores: int) -> Batches:
    """As the ViT papers' input pipeline does: `sample_distorted_bounding_box` and `decode_and_crop_jpeg`."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(cores)
    tf.config.threading.set_inter_op_parallelism_threads(cores)

    def load(path: Any) -> Any:
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data), tf.zeros([0, 0, 4]), area_range=AREA, aspect_ratio_range=ASPECT,
            min_object_covered=0, use_image_if_no_bounding_boxes=True,
        )  # fmt: skip
        image = tf.image.decode_and_crop_jpeg(data, tf.concat([begin[:2], size[:2]], axis=0), channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, (SIZE, SIZE)))
        return tf.cast(tf.round(image), tf.uint8)

    paths = sorted(map(str, (folder / "jpegs").rglob("*.jpg")))
    data = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    data = data.map(load, num_parallel_calls=cores).batch(BATCH).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    yield from data.with_options(options).as_numpy_iterator()


def torch_loader(folder: Path, cores: int) -> Batches:
    """torchvision's folder and `RandomResizedCrop` on Pillow images; one process, or a worker for each core."""
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    crop = transforms.RandomResizedCrop(SIZE, scale=AREA, ratio=ASPECT)
    steps = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    data = datasets.ImageFolder(str(folder / "jpegs" / "train"), steps)
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=2**40)
    workers = cores if cores > 1 else 0
    yield from torch.utils.data.DataLoader(data, BATCH, sampler=sampler, num_workers=workers)


# What each needs beyond the project's own packages.
LOADERS: dict[str, tuple[Callable[..., Batches], tuple[str, ...], dict[str, Any]]] = {
    "bare loop": (bare_loop, (), {}),
    "vit_jax, folder": (ours, (), {}),
    "vit_jax, ArrayRecord": (ours, (), {"kind": "array_record"}),
    "vit_jax, bilinear as tf.data": (ours, (), {"interpolation": "bilinear", "antialias": False}),
    "tf.data": (tf_data, ("tensorflow",), {}),
    "torch DataLoader": (torch_loader, ("torch", "torchvision"), {}),
}


def worker(connection: Connection, name: str, folder: str, cores: int) -> None:
    """Says why it cannot read, or '', and then reads as many batches as it is told to, until it is told 0."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    load, needs, options = LOADERS[name]
    try:
        for package in needs:
            importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:  # not there, or torchvision of another torch
        connection.send(str(error).splitlines()[0])
        return
    connection.send("")
    batches = load(Path(folder), cores, **options)
    while steps := connection.recv():
        began, cpu = time.perf_counter(), _cpu_seconds()
        for _ in range(steps):
            batch = next(batches)
        assert (batch[0] if isinstance(batch, list) else batch["image"] if isinstance(batch, dict) else batch).size
        # As many as were read have been prepared when what is read ahead is complete again, as it was before.
        connection.send((_settled() - began, _cpu_seconds() - cpu))
    batches.close()


def _settled() -> float:
    """When this process and its own ceased to work, on the clock."""
    while True:
        now, cpu = time.perf_counter(), _cpu_seconds()
        time.sleep(0.2)
        if _cpu_seconds() - cpu < 0.01:
            return now


def _cpu_seconds() -> float:
    """Processor time of this process and of those that it has started, where the system says so in /proc."""
    ticks, tasks = 0, Path("/proc/self/task")
    for children in tasks.glob("*/children") if tasks.exists() else ():
        for child in children.read_text().split():
            # The name of a process, in brackets, may hold blanks.
            values = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(values[11]) + int(values[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK") if ticks else time.process_time()


def write_images(folder: Path, count: int, sampling: str) -> None:
    """The same JPEGs as files in a folder and as ArrayRecord."""
    import contextlib
    import io

    import simplejpeg

    from vit_jax.commands.bench_data import photos
    from vit_jax.data.array_record import write
    from vit_jax.data.sources import folder as folders

    for index, data in enumerate(photos(count)):
        if sampling != "444":
            data = simplejpeg.encode_jpeg(simplejpeg.decode_jpeg(data), 90, "RGB", sampling)
        path = folder / "jpegs" / "train" / str(index % 10) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        write("loaders_jpegs", {"train": folders.build(str(folder / "jpegs"), "train")}, str(folder))


def measure(folder: Path, cores: int, steps: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Images a second of each loader by round: "cpu", for a second of processor time, and "clock"."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for name in LOADERS:
        pipe, theirs = context.Pipe()
        # torch starts workers of its own, which a daemon may not.
        processes.append(context.Process(target=worker, args=(theirs, name, str(folder), cores)))
        processes[-1].start()
        theirs.close()
        if why := pipe.recv():
            print(f"{name} is left out: {why}", flush=True)
        else:
            pipes[name] = pipe
    found: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "clock": []} for name in pipes}
    try:
        for turn in range(rounds + 1):
            for name, pipe in sorted(pipes.items(), reverse=turn % 2 == 1):
                pipe.send(steps)
                clock, cpu = pipe.recv()
                if turn:  # the first is for programs to be loaded and threads to start
                    found[name]["cpu"].append(steps * BATCH / cpu)
                    found[name]["clock"].append(steps * BATCH / clock)
    finally:
        for pipe in pipes.values():
            pipe.send(0)
        for process in processes:
            process.join(20)
            process.kill()
    return found


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="cores that each loader may use (1 2)")
    parser.add_argument("--images", type=int, default=256, help="images that a loader reads in a turn (256)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each that are counted (7)")
    parser.add_argument("--sampling", choices=("444", "420"), default="444", help="of the JPEGs' colours (444)")
    parser.add_argument("--json", metavar="FILE", help="where to write every turn's figures")
    arguments = parser.parse_args()
    steps = max(arguments.images // BATCH, 1)
    results: dict[str, Any] = {"arguments": vars(arguments), "load": [os.getloadavg()[0]]}
    with tempfile.TemporaryDirectory(prefix="vit_jax-loaders-") as name:
        write_images(Path(name), min(arguments.images, 256), arguments.sampling)
        for cores in arguments.cores:
            found = results[str(cores)] = measure(Path(name), cores, steps, arguments.rounds)
            results["load"].append(os.getloadavg()[0])
            title = f"{cores} core{'s' if cores > 1 else ''}, images for a second"
            rows = [[name, _cell(of["cpu"]), _cell(of["clock"])] for name, of in found.items()]
            print("\n" + table([title, "of processor time", "on the clock"], rows), flush=True)
    print(f"\nload of the machine: {', '.join(f'{load:.1f}' for load in results['load'])}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    from benchmarks.runs import as_command  # not in processes that this one starts

    as_command(main)
