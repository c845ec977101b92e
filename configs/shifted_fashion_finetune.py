"""Fine-tuning on 1,000 labelled garments: what the runs of `shifted_fashion.py` are worth where labels are few.

Paper: none of its own; the protocol is that of semi-supervised evaluation in SimCLR (arXiv:2002.05709, section 6): the
whole trunk is trained on the few labels, with a new head.
Expected: the table that `benchmarks/self_supervised.py` makes. Hardware: 2 CPU cores. Time: about three minutes.

Arguments: `init=PATH` of a run of `shifted_fashion` (none trains from scratch), `steps`, `seed`, `root=FOLDER` of the
IDX files, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, init="", steps=1500, seed=0, root=FASHION_MNIST, smoke=False)
    steps = 20 if arg.smoke else arg.steps
    data = dict(name="digits") if arg.smoke else dict(name="idx", root=arg.root, canvas=36)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 32 if arg.smoke else 64
    config.init_from = arg.init or None
    config.task = dict(name="classify")
    config.model = dict(
        name="vit", variant="mu/6", width=96, depth=4, mlp_dim=384, num_heads=3, pooling="mean", posemb="sincos2d_mae"
    )
    config.data = dict(
        image_size=(36, 36),
        train=dict(data, split="train") if arg.smoke else dict(data, split="train", examples=1000),
        eval=dict(data, split="test"),
        transform=dict(name="supervised", crop="random", area=(0.5, 1.0), flip=True),
        preprocess=dict(mean=(44.0, 44.0, 44.0), std=(79.0, 79.0, 79.0)),
        eval_batch_size=None if arg.smoke else 500,
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
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=max(1, steps // 4), keep=1)
    return config
