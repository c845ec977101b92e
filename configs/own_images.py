"""A small ViT from scratch on a folder of your own images, or on what `vit_jax prepare` made of it.

Paper: none; the supervised recipe of the ViT paper (arXiv:2010.11929, section B.1) in small.
Expected: see the walk-through in docs/data.md. Hardware: 2 CPU cores. Time: a few minutes.

Arguments: `root=FOLDER` of class folders, or `manifest=FILE`, a CSV or JSONL with the columns path, label and split
(train or test), or `dataset=NAME,data_dir=DIR` of a prepared data set; `res` in pixels, a multiple of 8; `steps`;
`seed`; `smoke` for a run of a few seconds, by default on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, root="", manifest="", dataset="", data_dir="", res=48, steps=800, seed=0, smoke=False)
    if arg.dataset:
        data = dict(name="tfds", dataset=arg.dataset, data_dir=arg.data_dir or None)
    elif arg.manifest:
        data = dict(name="manifest", path=arg.manifest)
    elif arg.root:
        data = dict(name="folder", root=arg.root)
    elif arg.smoke:
        data = dict(name="digits")
    else:
        raise UserError("This config needs images", "Write --config own_images:root=FOLDER, or manifest=FILE")

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 32 if arg.smoke else 64
    config.task = dict(name="classify", label_smoothing=0.1)
    config.model = dict(name="vit", variant="mu/8", width=96, depth=4, mlp_dim=384, num_heads=3, pooling="mean")
    config.data = dict(
        image_size=(arg.res, arg.res),
        train=dict(data, split="train"),
        eval=dict(data, split="test"),
        transform=dict(name="supervised", crop="random", area=(0.35, 1.0)),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else arg.steps // 10),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = None if arg.smoke else max(arg.steps // 4, 1)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=config.eval_every, keep=1)
    return config
