"""Super-resolution in small: photos of twice the resolution from a network of three EfficientViT blocks.

  vit_jax train --config photos_sr:root=photos --workdir runs/sr
  vit_jax upscale --checkpoint runs/sr photo.jpg --output big.png

Paper: none; EfficientViT (arXiv:2205.14756) does super-resolution with such blocks, see `efficientvit_sr`. Data: a
folder with train/ANY/*.jpg and test/ANY/*.jpg; of each test photo the middle is measured.
Expected: the table that `benchmarks/super_resolution.py` makes. Hardware: 2 CPU cores. Time: some 8 minutes.

Arguments: `root=FOLDER`, `scale` 2, 3 or 4, `attention=no` for the control, `expand` of the MBConvs (with 8 the control
is as large as the network that attends), `patch` of the low resolution, `size` of what is measured of a photo, `steps`,
`seed`, `smoke` for a run of a few seconds.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, root="photos", scale=2, attention="yes", expand=4.0, patch=24, size=256, steps=2000, seed=0, smoke=False
    )  # fmt: skip
    steps = 4 if arg.smoke else arg.steps
    source = dict(name="folder", root=arg.root)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 2 if arg.smoke else 8
    config.task = dict(name="super_resolution")
    config.model = dict(
        name="efficientvit_sr",
        scale=arg.scale,
        width=8 if arg.smoke else 32,
        depth=1 if arg.smoke else 3,
        head_width=8,
        attention=arg.attention != "no",
        expand_ratio=arg.expand,
    )
    config.data = dict(
        image_size=(arg.patch, arg.patch),
        train=dict(source, split="train"),
        eval=dict(source, split="test"),
        fields=dict(image=dict(name="image"), high=dict(name="high_resolution", scale=arg.scale)),
        transform=dict(name="low_resolution", scale=arg.scale, turn=True),
        eval_batch_size=1,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.0,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    size = arg.size // arg.scale * arg.scale
    config.evals = dict(val=dict(name="restoration", scale=arg.scale, size=(size, size)))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else max(1, steps // 4), keep=1)
    return config
