"""What attention in windows and linear attention are worth, in small: one hierarchical trunk, five ways to mix tokens.

  vit_jax train --config garment_mixers:mixer=shifted --workdir runs/shifted

Paper: Swin (arXiv:2103.14030) and EfficientViT (arXiv:2205.14756) in small. The trunk is the same for all: patches of
2x2 pixels, 28x28 of them, three stages of two blocks of 16, 32 and 64 channels; windows of 7x7. Data: Fashion-MNIST,
each garment at a random place on a canvas of 56x56 pixels.
Expected: the table that `benchmarks/efficient_attention.py` makes. Hardware: 2 CPU cores. Time: 6 minutes;
16 for attention among all tokens.

Arguments: `mixer` softmax, window, shifted, linear or multiscale, `steps`, `seed`, `root=FOLDER` of the IDX files,
`smoke` for a run of a few seconds on scikit-learn's digits, which need no package.
"""

from typing import get_args

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.models.mixer_swin import Mixer
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, mixer="shifted", steps=3000, seed=0, root=FASHION_MNIST, smoke=False)
    if arg.mixer not in get_args(Mixer):
        raise UserError(f"Unknown mixer {arg.mixer!r}", nearest(arg.mixer, get_args(Mixer)))
    steps = 4 if arg.smoke else arg.steps
    data = dict(name="digits") if arg.smoke else dict(name="idx", root=arg.root, canvas=56)
    train, test = dict(data, split="train"), dict(data, split="test")
    if arg.smoke:
        test["per_class"] = 2

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 8 if arg.smoke else 16
    config.task = dict(name="classify")
    config.model = dict(
        name="mixer_swin", mixer=arg.mixer, width=16, depths=(2, 2, 2), num_heads=(1, 2, 4), patch_size=2, window_size=7
    )
    config.data = dict(
        image_size=(56, 56),
        train=train,
        eval=test,
        transform=dict(name="supervised", crop="none", flip=True),
        preprocess=dict(mean=(18.0, 18.0, 18.0), std=(55.0, 55.0, 55.0)),
        eval_batch_size=None if arg.smoke else 250,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 10)),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 25
    config.checkpoint = dict(every=None if arg.smoke else max(1, steps // 4), keep=1)
    return config
