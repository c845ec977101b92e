"""A small SAM that is asked in words, on drawn shapes in colours, on two cores and without any data.

  vit_jax train --config shapes_text --workdir runs/shapes-clip
  vit_jax train --config shapes_text:stage=sam,init=runs/shapes-clip --workdir runs/shapes-text
  vit_jax segment --checkpoint runs/shapes-text photo.png --text "a red disc" --output masks

Paper: none; "Segment anything" (arXiv:2304.02643), section 7.5, in small, told in `vit_jax.tasks.sam_text`. First a
CLIP learns what shapes are called from squares around them: 18 names, of three shapes in six colours. Then a small SAM
that sees 64x64 pixels learns from CLIP's embeddings of images alone, and is evaluated by the names. Other than in the
paper no clicks follow unless `clicks` says so, and cross-entropy stands for focal loss, as in the other small configs.
Of photographs neither model knows anything.
Expected: see the table of named objects in docs/results.md. Hardware: 2 CPU cores. Time: one minute and some minutes.

Arguments: `stage`, clip or sam; `init`, a run of the first stage for the second; `steps` (0: 400 and 1000), `clicks`
after the first prompt, `seed`, `smoke` for a run of a few steps.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

STAGES = ("clip", "sam")
COLORS = ("red", "green", "blue", "yellow", "purple", "black")
SCENES = dict(name="shapes", image_size=64, kinds=("disc", "square", "triangle"), colors=COLORS)
CROP = 32  # pixels of what CLIP sees
CLIP = dict(
    name="clip",
    variant="mu/8",
    width=64,
    depth=2,
    num_heads=4,
    mlp_dim=128,
    embed_dim=32,
    text=dict(width=64, depth=1, num_heads=4, max_length=20),
)
TEXT = dict(tokenizer="bytes", length=20, long="cut")


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, stage="clip", init="", steps=0, clicks=0, seed=0, smoke=False)
    if arg.stage not in STAGES:
        raise UserError(f"Unknown stage {arg.stage!r}", nearest(arg.stage, STAGES))
    if arg.stage == "sam" and not arg.init:
        raise UserError("This stage needs a checkpoint of the first", "Write --config shapes_text:stage=sam,init=PATH")
    steps = 4 if arg.smoke else arg.steps or (400 if arg.stage == "clip" else 1000)
    train = dict(SCENES, length=16 if arg.smoke else 100_000)
    test = dict(SCENES, length=4 if arg.smoke else 200, seed=1)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    if arg.stage == "clip":
        config.batch_size = 4 if arg.smoke else 32
        config.task = dict(name="clip")
        config.model = CLIP
        config.data = dict(
            image_size=CROP,
            train=dict(name="objects", source=train),
            eval=dict(name="objects", source=test),
            fields=dict(image=dict(name="image"), text=dict(name="tokens", **TEXT)),
            transform=dict(name="supervised", crop="none", flip=True),
            eval_batch_size=4 if arg.smoke else 50,
        )
        config.evals = dict(val=dict(name="zero_shot", templates="plain"))
    else:
        config.batch_size = 4 if arg.smoke else 16
        config.init_from = dict(teacher=f"{arg.init}::")
        config.task = dict(
            name="sam_text",
            teacher=CLIP,
            crop=dict(image_size=(CROP, CROP)),
            targets=2,
            corrections=arg.clicks,
            refinements=0,
            weights=dict(focal=0.0, dice=1.0, cross_entropy=4.0, iou=1.0),
        )
        config.model = dict(
            name="sam",
            trunk=dict(name="vit", variant="mu/8", width=64, depth=3, num_heads=4, mlp_dim=128, pooling="mean"),
            width=64,
            decoder_heads=4,
            decoder_mlp_dim=128,
            iou_hidden=64,
            text_width=CLIP["embed_dim"],
        )
        classes = 1 + len(SCENES["kinds"]) * len(COLORS)
        config.data = dict(
            image_size=64,
            train=train,
            eval=test,
            fields=dict(
                image=dict(name="image"),
                masks=dict(name="masks", max_objects=3, mask_size=32, classes=classes),
                text=dict(name="prompt", **TEXT),
            ),
            transform=dict(name="supervised", crop="none", flip=True),
            eval_batch_size=4 if arg.smoke else 50,
        )
        config.optim.frozen = ("teacher/.*",)
        config.evals = dict(named=dict(name="named"))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
