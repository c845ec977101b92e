"""A small SAM on composites of cut-outs and photos, on two cores.

  vit_jax prepare cutouts --help
  vit_jax train --config composites_sam:data=cutouts --workdir runs/sam
  vit_jax segment --checkpoint runs/sam photo.jpg --points 120,80 --output masks
  vit_jax train --config composites_sam:data=cutouts,init=dinov2/model.safetensors,size=168,steps=400 --workdir runs/on

Paper: none; "Segment anything" (arXiv:2304.02643) in small: a ViT of 4 blocks of width 96 that sees 64x64 pixels in
patches of 8, a decoder of width 64, and masks of 32x32. Half of the objects lie on a plate, so that a click into one
has two right answers. With as few steps as fit into minutes, focal loss learns later than cross-entropy, which stands
in its place; the rounds are as many as `clicks` evaluates.
Expected: see the table that `benchmarks/promptable.py` makes. Hardware: 2 CPU cores. Time: 10 minutes.

Arguments: `data` folder that `vit_jax prepare cutouts` wrote, `scenes` of the training set, `annotations=FILE` that
`vit_jax annotate` wrote, learned from as much as from the scenes, `steps`, `clicks`, `single` for one answer to a click
instead of three, `init`, a ViT's checkpoint that is the encoder instead and stays as it is, `size` of the images (a
multiple of its patches), `seed`, `smoke` for a run of a few steps.
"""

import os

from ml_collections import ConfigDict

from vit_jax.checkpoints.transfer import starting_point
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, data="cutouts", scenes=100_000, annotations="", steps=3500, clicks=5, single=False, init="", size=64,
        seed=0, smoke=False,
    )  # fmt: skip
    steps = 4 if arg.smoke else arg.steps
    scenes = dict(name="composites", root=arg.data, image_size=arg.size)
    train = dict(scenes, split="train", length=16 if arg.smoke else arg.scenes)
    if arg.annotations:
        found = dict(name="coco", annotations=arg.annotations, images=os.path.dirname(arg.annotations) or ".")
        train = dict(name="mixture", sources=dict(scenes=train, found=found))

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 4 if arg.smoke else 16
    config.task = dict(
        name="sam",
        targets=2,
        corrections=arg.clicks - 1,
        refinements=0,
        multimask=not arg.single,
        weights=dict(focal=0.0, dice=1.0, cross_entropy=4.0, iou=1.0),
    )
    trunk: dict = dict(name="vit", variant="mu/8", width=96, depth=4, num_heads=3, mlp_dim=384, pooling="mean")
    data: dict = dict(image_size=arg.size)
    if arg.init:
        trunk, data = starting_point(arg.init, arg.size)
        config.init_from = dict(encoder=arg.init)
    config.model = dict(
        name="sam",
        trunk=trunk,
        width=64,
        decoder_heads=4,
        decoder_mlp_dim=128,
        iou_hidden=64,
    )
    config.data = dict(
        **data,
        train=train,
        eval=dict(scenes, split="test", length=4 if arg.smoke else 300, seed=1),
        fields=dict(image=dict(name="image"), masks=dict(name="masks", max_objects=6, mask_size=32)),
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
    if arg.init:
        config.optim.frozen = ("encoder/.*",)
    config.evals = dict(val=dict(name="clicks", clicks=arg.clicks))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
