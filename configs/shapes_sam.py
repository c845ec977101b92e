"""A small SAM on drawn shapes, whose scissors have parts within parts, on two cores and without any data.

  vit_jax train --config shapes_sam --workdir runs/scissors
  vit_jax segment --checkpoint runs/scissors photo.png --points 20,30 --output masks

Paper: none; "Segment anything" (arXiv:2304.02643) in small: a ViT of 4 blocks of width 96 that sees 64x64 pixels in
patches of 8, a decoder of width 64, and masks of 32x32. A click on a handle of a pair of scissors may mean it, both
handles or the whole, as in figure 3 of the paper, and has three answers. With `kinds=scissors` a scene is one pair, as
large as the image: in smaller ones a ring is 30 to 80 of 4,096 pixels, and masks of 32x32 cannot show it.
Expected: see the table that `benchmarks/promptable.py` makes. Hardware: 2 CPU cores. Time: 8 minutes.

Arguments: `kinds` all or scissors, `steps`, `clicks`, `seed`, `smoke` for a run of a few steps.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.data.sources.shapes import KINDS
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, kinds="all", steps=2000, clicks=3, seed=0, smoke=False)
    if arg.kinds not in ("all", *KINDS):
        raise UserError(f"There are no shapes {arg.kinds!r}", nearest(arg.kinds, ("all", *KINDS)))
    steps = 4 if arg.smoke else arg.steps
    scenes = dict(name="shapes", image_size=64, kinds=KINDS if arg.kinds == "all" else (arg.kinds,))
    if arg.kinds == "scissors":  # smaller ones have rings that masks of 32x32 cannot show
        scenes |= dict(objects=(1, 1), scale=(0.8, 1.0))

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 4 if arg.smoke else 16
    config.task = dict(
        name="sam",
        targets=2,
        corrections=arg.clicks - 1,
        refinements=0,
        weights=dict(focal=0.0, dice=1.0, cross_entropy=4.0, iou=1.0),
    )
    config.model = dict(
        name="sam",
        trunk=dict(name="vit", variant="mu/8", width=96, depth=4, num_heads=3, mlp_dim=384, pooling="mean"),
        width=64,
        decoder_heads=4,
        decoder_mlp_dim=128,
        iou_hidden=64,
    )
    config.data = dict(
        image_size=64,
        train=dict(scenes, length=16 if arg.smoke else 100_000),
        eval=dict(scenes, length=4 if arg.smoke else 200, seed=1),
        fields=dict(image=dict(name="image"), masks=dict(name="masks", max_objects=12, mask_size=32)),
        transform=dict(name="supervised", crop="none", flip=True),
        eval_batch_size=4 if arg.smoke else 50,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    config.evals = dict(val=dict(name="clicks", clicks=arg.clicks))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
