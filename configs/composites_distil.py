"""A small EfficientViT-SAM made of a small SAM on composites, on two cores.

  vit_jax train --config composites_sam:data=cutouts --workdir runs/sam
  vit_jax train --config composites_distil:data=cutouts,init=runs/sam --workdir runs/distilled
  vit_jax train --config composites_distil:data=cutouts,stage=train,init=runs/distilled --workdir runs/small
  vit_jax segment --checkpoint runs/small photo.jpg --points 120,80 --output masks

Paper: none; "EfficientViT-SAM" (arXiv:2402.05008) in small: first an EfficientViT of 64x64 pixels learns the embedding
of the ViT in `composites_sam`, without a look at masks, then all of it is trained as the teacher was.
Expected: see the table that `benchmarks/promptable.py` makes. Hardware: 2 CPU cores. Time: some minutes each stage.

Arguments: `init`, a run of `composites_sam` for the first stage, and for the second a run of the first; `data`, what
`vit_jax prepare cutouts` wrote; `stage`, distil or train; `steps`, `clicks`, `seed`, `smoke` for a run of a few steps.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

STAGES = ("distil", "train")
DECODER = dict(width=64, decoder_heads=4, decoder_mlp_dim=128, iou_hidden=64)  # those of composites_sam
TEACHER = dict(
    name="sam",
    trunk=dict(name="vit", variant="mu/8", width=96, depth=4, num_heads=3, mlp_dim=384, pooling="mean"),
    **DECODER,
)


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, init="", data="cutouts", stage="distil", steps=2000, clicks=5, seed=0, smoke=False)
    if arg.stage not in STAGES:
        raise UserError(f"Unknown stage {arg.stage!r}", nearest(arg.stage, STAGES))
    distils, steps = arg.stage == "distil", 4 if arg.smoke else arg.steps
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config composites_distil:init=PATH")
    scenes = dict(name="composites", root=arg.data, image_size=64)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 4 if arg.smoke else 16
    config.model = dict(
        name="efficientvit_sam",
        variant="L0",
        widths=(8, 16, 32, 48, 64),
        depths=(1, 1, 1, 1, 1),
        head_width=16,
        neck_width=48,
        neck_depth=1,
        embedding_size=8,
        stride=8,
        **DECODER,
    )
    if distils:
        config.task = dict(name="distil_encoder", teacher=TEACHER)
        config.init_from = dict(teacher=f"{arg.init}::", prompts=arg.init, decoder=arg.init)
    else:
        config.task = dict(
            name="sam",
            targets=2,
            corrections=arg.clicks - 1,
            refinements=0,
            weights=dict(focal=0.0, dice=1.0, cross_entropy=4.0, iou=1.0),
        )
        config.init_from = {name: arg.init for name in ("encoder", "neck", "prompts", "decoder")}
    config.data = dict(
        image_size=64,
        train=dict(scenes, split="train", length=16 if arg.smoke else 100_000),
        eval=dict(scenes, split="test", length=4 if arg.smoke else 300, seed=1),
        fields=dict(image=dict(name="image"), masks=dict(name="masks", max_objects=6, mask_size=32)),
        transform=dict(name="supervised", crop="none", flip=True),
        eval_batch_size=4 if arg.smoke else 50,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3 if distils else 5e-4,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
        frozen=("teacher/.*", "prompts/.*", "decoder/.*") if distils else (),
    )
    config.evals = dict(val=dict(name="clicks", clicks=arg.clicks))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
