"""Detection in small: a YOLOS finds emoji and plates on photos.

  vit_jax prepare cutouts --from emoji-datasource-google backgrounds backgrounds/mate/nature --output composites
  vit_jax train --config composites_detect:root=composites --workdir runs/detect
  vit_jax detect --checkpoint runs/detect photo.jpg --output found/

Paper: YOLOS (arXiv:2106.00666) in small: a ViT of 96 channels and 4 blocks on patches of 8 pixels, that of
`composites_sam`, from whose runs it may start, with 20 tokens that find. Data: made-up scenes of 1 to 3 objects on
64x64 pixels, held-out cut-outs on held-out photos to measure on.
Expected: the table that `benchmarks/detection.py` makes. Hardware: 2 CPU cores. Time: some 10 minutes.

Arguments: `root=FOLDER` of the cut-outs, `init=CHECKPOINT` whose trunk it starts from, `scenes`, `steps`, `seed`,
`smoke` for a run of a few seconds on drawn shapes, which need no folder.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg

KINDS = 10  # classes of the cut-outs' categories and plates, with the background's number 0, which nothing has
SHAPES = 4


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, root="composites", init="", scenes=20_000, steps=4000, seed=0, smoke=False)
    steps = 4 if arg.smoke else arg.steps
    if arg.smoke:
        scenes = dict(name="shapes", image_size=64, kinds=("disc", "square", "triangle"))
        train, test = dict(scenes, length=16), dict(scenes, length=8, seed=1)
    else:
        scenes = dict(name="composites", root=arg.root, image_size=64)
        train, test = dict(scenes, split="train", length=arg.scenes), dict(scenes, split="test", length=500)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 8 if arg.smoke else 32
    config.task = dict(name="detect")
    config.model = dict(
        name="yolos",
        num_detections=20,
        trunk=dict(name="vit", variant="mu/8", width=96, depth=4, num_heads=3, mlp_dim=384, pooling="mean"),
    )
    config.data = dict(
        image_size=(64, 64),
        train=train,
        eval=test,
        fields=dict(
            image=dict(name="image"),
            boxes=dict(name="boxes", count=8, classes=SHAPES if arg.smoke else KINDS, min_area=9.0),
        ),
        transform=dict(name="supervised", area=(0.5, 1.0), flip=True),
        eval_batch_size=None if arg.smoke else 100,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=1e-4,
        clip_norm=0.1,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    if arg.init:
        config.init_from = dict(encoder=arg.init)
    config.evals = dict(val=dict(name="detection"))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else max(1, steps // 4), keep=1)
    return config
