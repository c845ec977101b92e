"""A picture of the windows that a sparse Swin computes: in each stage those that are left out are dark."""

from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from vit_jax.checkpoints.load import Loaded
from vit_jax.nn.pruning import Ratios, is_kept, kept_count
from vit_jax.planning.sparsity import encoder_of
from vit_jax.training.config import run_config
from vit_jax.training.evaluation import inputs_of

matplotlib.use("agg")

IMAGES = 8


def kept_windows(loaded: Loaded, ratios: Ratios, output: Path) -> None:
    """Writes a PNG of the first images of the evaluation data, and below each what the plain windows of stages see."""
    config = run_config(loaded.metadata["config"])
    inputs = inputs_of(loaded, config)
    batch = next(iter(inputs.eval_pipeline(config.batch_size, "config.data.eval").iterate()))
    shown = batch["image"][:IMAGES]
    encoder = encoder_of(loaded).clone(pruning_ratios=ratios, parent=None)
    images = inputs.on_device_eval()({"image": shown})["image"]
    params = {"params": loaded.params["encoder"]}
    _, noted = jax.jit(lambda p, x: encoder.apply(p, x, mutable=["intermediates"]))(params, images)
    rows = [shown]
    for i, (grid, style, own) in enumerate(zip(encoder.grids(shown.shape[1:3]), encoder.styles, ratios, strict=True)):
        if not any(own):
            continue
        windows = style.windows(grid)
        [(plain, _)] = noted["intermediates"][f"stage_{i}"]["orders"]
        kept = np.asarray(is_kept(plain, kept_count(windows.count, own[-1])))
        tokens = np.broadcast_to(kept[..., None], (*kept.shape, windows.tokens)).reshape(-1, windows.tokens, 1)
        side = shown.shape[1] // grid[0]
        seen = np.asarray(windows.join(tokens)).reshape(len(shown), *grid, 1).repeat(side, 1).repeat(side, 2)
        rows.append(np.where(seen, shown, 80 + shown // 8).astype(np.uint8))
    figure = Figure(figsize=(1.2 * len(shown), 1.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(shown), squeeze=False)
    for of_row, pictures in zip(axes, rows, strict=True):
        for axis, picture in zip(of_row, pictures, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    figure.savefig(output, dpi=110)
