"""What a model makes of images as arrays in a file: pooled features, tokens, any layer, any output.

examples:
  vit_jax features photos/ --checkpoint runs/mine --output features.npz
  vit_jax features photos/ --checkpoint hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k --output features.parquet
  vit_jax features photos/ --checkpoint runs/mine --what features --what tokens --dtype float16 --output tokens.npz
  vit_jax features photos/ --checkpoint runs/mine --layer 3 --layer -1 --output layers.npz
  vit_jax features photos/ --checkpoint runs/clip --what image_embedding --output embeddings.npz

The .npz holds 'paths' and an array for each output, in the same order: 'features', 'tokens', and for layers
'layer_3', 'layer_-1'. Layers are numbered from 0, from the end below 0, or named as parameters are,
--layer encoder/block_03/mlp. Rows are written as they come, so that memory holds three batches; the same command,
called again, goes on where it was interrupted. Images that cannot be read are left out, named at the end, and make the
exit status 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, in_batches, left_out
from vit_jax.commands.output import output_file
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    import jax

    from vit_jax.checkpoints.load import Loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or directories")
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write, .npz or .parquet")
    parser.add_argument(
        "--what", action="append", default=[], metavar="NAME",
        help="an output of the task, such as features, tokens, maps or image_embedding; repeatable (default features)",
    )  # fmt: skip
    parser.add_argument(
        "--layer", action="append", default=[], metavar="N|NAME", help="a layer inside the model; repeatable"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the rows")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that features has not written, too")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="at a time (default 32)")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vit_jax.commands.embeddings import described_files, model_digest
    from vit_jax.commands.feature_files import SUFFIXES, FeatureFile, about_in
    from vit_jax.training.compiling import keep_compiled

    if arguments.batch_size < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}", "Ask for at least 1")

    def ours(path: Path) -> bool:
        return arguments.overwrite or about_in(path) is not None

    path = output_file(arguments.output, suffixes=SUFFIXES, ours=ours)
    what = tuple(dict.fromkeys(arguments.what or ([] if arguments.layer else ["features"])))
    layers = tuple(dict.fromkeys(arguments.layer))
    paths = expand(arguments.images)
    loaded = open_loaded(arguments)
    keep_compiled()
    files = json.dumps([described_files(paths), loaded.preprocess and loaded.preprocess.to_json()], default=str)
    about = {
        "checkpoint": str(loaded.path),
        "model": model_digest(loaded),
        "images": hashlib.sha256(files.encode()).hexdigest(),
        "what": what,
        "layers": layers,
        "dtype": arguments.dtype,
    }
    file = FeatureFile(path, about, [str(p) for p in paths], arguments.dtype)
    if file.complete:
        print(printable(f"{path} is complete"), file=sys.stderr)
        return
    if file.done:
        print(printable(f"vit_jax: goes on behind image {file.done} of {len(paths)}"), file=sys.stderr)
    bar = tqdm(total=len(paths), initial=file.done, unit="image", leave=False, disable=not sys.stderr.isatty())
    computed = program(loaded, what, layers)
    batches = in_batches(loaded, paths[file.done :], arguments.batch_size, computed, file.done)
    with bar, closing(file), closing(batches):
        for batch, rows in batches:
            reasons = [(x.what, x.what_to_do) if isinstance(x, UserError) else None for _, x in batch]
            file.add(_on_host(rows or {}, reasons.count(None)), reasons)
            bar.update(len(batch))
    refused = file.refused
    count = file.finish()
    print(printable(f"{path}: {count:,} images"))
    if refused:
        raise left_out([UserError(*reason) for reason in refused], len(paths))


def program(
    loaded: Loaded, what: Sequence[str], layers: Sequence[str]
) -> Callable[[Mapping[str, Any]], dict[str, jax.Array]]:
    """`rows_of` of batches as one program: what outputs and layers have in common, the trunk, is computed once."""
    import jax

    @jax.jit
    def computed(variables: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        return rows_of(dataclasses.replace(loaded, variables=variables), batch, what, layers)

    return functools.partial(computed, loaded.variables)


def rows_of(loaded: Loaded, batch: Mapping[str, Any], what: Sequence[str], layers: Sequence[str]) -> dict[str, Any]:
    """Outputs and layers by the name of their array; each map of a pyramid by itself, 'maps_16'."""
    found: dict[str, jax.Array] = {}
    for name, value in (loaded.outputs(batch, what) if what else {}).items():
        found |= {f"{name}_{key}": x for key, x in value.items()} if isinstance(value, Mapping) else {name: value}
    if layers:
        given = loaded.intermediate({"image": batch["image"]}, layers)
        found |= {f"layer_{layer}": x for layer, x in zip(layers, given, strict=True)}
    return found


def _on_host(rows: Mapping[str, Any], count: int) -> dict[str, Any]:
    import numpy as np

    return {name: np.asarray(x, np.float32)[:count] for name, x in rows.items()}
