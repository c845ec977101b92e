"""Exporting a model: what is written is read back and compared before it counts as written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Shaped, UInt8

import vit_jax
from vit_jax.checkpoints.serving.exported import ABOUT, FORMATS, VERSION, load_exported
from vit_jax.checkpoints.serving.exported_texts import TEXT_VERSION, write_tokenizer
from vit_jax.checkpoints.serving.program import Program, named
from vit_jax.checkpoints.serving.stablehlo import HERE, PLATFORMS
from vit_jax.checkpoints.serving.text_program import TextProgram
from vit_jax.checkpoints.whole_folder import check_free, whole_folder
from vit_jax.data import traced_resize
from vit_jax.errors import UserError
from vit_jax.spelling import nearest

TOLERANCE = 1e-4  # of an output's largest value
EXAMPLES = 10
# Of what a program resizes itself: levels of 255, and which share of the values may be off by one.
LEVELS, SHARE = 1, 0.02


def export_program(
    program: Program | TextProgram, folder: Path, to: str, platforms: Sequence[str] = ("cpu", "cuda", "tpu")
) -> dict[str, Any]:
    """Writes a program in a format, if what is read back gives the model's outputs on ten examples that are made up.

    Args:
        folder: which is made; nothing that exists is overwritten, and nothing half written is left.
        to: one of `FORMATS`.
        platforms: that the program is to run on, of `PLATFORMS`; onnxruntime has its own.

    Returns:
        What export.json says.

    Raises:
        UserError: the folder holds something, the format has no place for the program, or the outputs differ.
    """
    check_export(folder, to, platforms)
    with whole_folder(folder) as partial:
        of_texts = isinstance(program, TextProgram)
        about = {"version": TEXT_VERSION if of_texts else VERSION, "format": to, **_described(program)}
        if of_texts:
            write_tokenizer(program.loaded.fields, partial)
        about |= FORMATS[to].write(program, partial, platforms)
        _write(partial, about)
        about["checked"] = compare(program, partial)
        _write(partial, about)
    return about


def check_export(folder: Path, to: str, platforms: Sequence[str]) -> None:
    """Refuses what `export_program` cannot write, before anything is loaded, with a UserError."""
    if to not in FORMATS:
        raise UserError(f"There is no format {to!r}", nearest(to, FORMATS))
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"There is no platform {platform!r}", nearest(platform, PLATFORMS))
    check_free(folder)
    backend = jax.default_backend()
    if to != "onnx" and not set(HERE.get(backend, (backend,))) & set(platforms):
        raise UserError(
            f"A program for {', '.join(platforms) or 'nothing'} cannot be compared here, on {backend}",
            f"Add {HERE.get(backend, (backend,))[0]} to --platforms",
        )


def compare(program: Program | TextProgram, folder: Path) -> dict[str, Any]:
    """How far what is in `folder` is from the model on `EXAMPLES` images or texts.

    Where the program resizes images, the pixels that it makes are compared with `Preprocess`, and its outputs with the
    model's on these pixels.

    Returns:
        "images" or "texts" (how many), "differences" (by output, of its largest value), and "pixels" where the program
        resizes: which share of the values is one level off.

    Raises:
        UserError: they differ by more than `TOLERANCE`.
    """
    exported, loaded, differences = load_exported(folder), program.loaded, dict[str, float]()
    kind, off = "texts" if isinstance(program, TextProgram) else "images", list[float]()
    pairs = _texts(program) if kind == "texts" else _images(program, off)
    for given, batch in pairs:
        ours = named(loaded.outputs(batch, program.names), program.names)
        theirs = exported(given)
        for name, value in ours.items():
            found = difference(np.asarray(value), theirs[name])
            differences[name] = max(differences.get(name, 0.0), found)
    for name, found in differences.items():
        if not found <= TOLERANCE:
            raise UserError(
                f"What was exported gives other {name} than the model, by {found:.2g} of the largest value where"
                f" {TOLERANCE:g} is allowed",
                "Nothing is written; try another format",
            )
    return {kind: EXAMPLES, "differences": differences, **({"pixels": float(np.mean(off))} if off else {})}


def _texts(program: TextProgram) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """What the program is given, and what the model is."""
    rng, size = np.random.default_rng(0), program.batch_size or EXAMPLES // 2
    for _ in range(0, EXAMPLES, size):
        rows = program.drawn(rng, size)
        yield {name: rows[name] for name in program.inputs}, rows


def _images(program: Program, off: list[float]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The same of images.

    Args:
        off: receives, where the program resizes, which share of the values of some images is one level off ours.

    Raises:
        UserError: they are further off.
    """
    rng, preprocess = np.random.default_rng(0), program.loaded.preprocess
    size = program.batch_size or EXAMPLES // 2
    for start in range(0, EXAMPLES, size):
        if program.channels != 3:
            given = prepared = rng.standard_normal(program.example(size).shape, np.float32)
        elif program.preprocessing == "resize":
            given = pictures(rng, size, _raw_size(preprocess.image_size, start > 0))
            prepared = np.asarray(jax.jit(lambda x: traced_resize.to_uint8(preprocess, x))(given))
            levels = np.abs(prepared.astype(int) - np.stack([preprocess.to_uint8(image) for image in given]))
            off.append(float((levels > 0).mean()))
            if levels.max() > LEVELS or np.mean(off) > SHARE:
                raise UserError(
                    f"The program's images differ from ours by up to {levels.max()} of 255, in {np.mean(off):.1%}",
                    "Nothing is written; prepare images before it",
                )
        else:
            prepared = pictures(rng, size, preprocess.image_size)
            given = prepared if program.preprocessing == "normalize" else preprocess.normalize(prepared)
        yield given, {"image": prepared}


def difference(ours: Shaped[np.ndarray, "..."], theirs: Shaped[np.ndarray, "..."]) -> float:
    """The largest difference over the largest value of ours; infinite where shapes, or where values are finite,
    differ."""
    if ours.shape != theirs.shape or not (np.isfinite(ours) == np.isfinite(theirs)).all():
        return float("inf")
    a, b = (np.where(np.isfinite(x), x, 0).astype(np.float64) for x in (ours, theirs))
    return float(np.abs(a - b).max(initial=0) / (np.abs(a).max(initial=0) or 1.0))


def pictures(rng: np.random.Generator, count: int, size: tuple[int, int]) -> UInt8[np.ndarray, "B H W 3"]:
    """Made-up images with large shapes and small ones: coarse and fine noise, each from 0 to 255."""
    height, width = size
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    rows, columns = (np.arange(side) * 4 // side for side in size)
    fine = rng.integers(0, 256, (count, height, width, 3))
    return ((3 * coarse[:, rows[:, None], columns] + fine) // 4).astype(np.uint8)


def _raw_size(size: tuple[int, int], tall: bool) -> tuple[int, int]:
    """Of images that are to be resized: larger than the model's, wide and then tall, and in no simple ratio."""
    height, width = size
    return (height * 9 // 4 + 3, width * 5 // 3 + 1) if tall else (height * 3 // 2 + 1, width * 2 + 5)


def _described(program: Program | TextProgram) -> dict[str, Any]:
    return {
        "vit_jax": vit_jax.__version__,
        "checkpoint": _name(program.loaded.path),
        **program.described(),
    }


def _name(path: epath.Path) -> str:
    """A checkpoint's name, its run and step or its file, without where it lies: that is nobody's business."""
    return "/".join(path.parts[-3:] if path.parent.name == "checkpoints" else path.parts[-1:])


def _write(folder: Path, about: dict[str, Any]) -> None:
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
