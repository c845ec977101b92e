"""SparseViT in small: garments that fill a fifth of their canvas, and a Swin that learns to look at no more than that.

  vit_jax train --config garment_sparse --workdir runs/dense
  vit_jax train --config garment_sparse:stage=adapt,init=runs/dense --workdir runs/adapted
  vit_jax search-sparsity --checkpoint runs/adapted --max-latency 0.6 --examples 2000 --output ratios.json

Paper: "SparseViT" (arXiv:2303.17605) in small: a Swin of three stages of two blocks, of 16, 32 and 64 channels,
patches of 2x2 pixels and windows of 4x4 patches. Data: Fashion-MNIST, each garment at a random place on a canvas of
64x64 pixels, of which it has 19%.
Expected: the table that `benchmarks/efficient_attention.py` makes. Hardware: 2 CPU cores. Time: 13 and 7 minutes
beside other work.

Arguments: `stage` dense or adapt, `init=PATH` of the dense run, `steps` (0: those of the stage), `seed`, `root=FOLDER`
of the IDX files, `smoke` for a run of a few seconds on scikit-learn's digits, which need no package.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

# Steps and learning rate. Adaptation takes half of the steps, at a fifth of the learning rate.
STAGES = {"dense": (3000, 2e-3), "adapt": (1500, 4e-4)}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, stage="dense", init="", steps=0, seed=0, root=FASHION_MNIST, smoke=False)
    if arg.stage not in STAGES:
        raise UserError(f"Unknown stage {arg.stage!r}", nearest(arg.stage, STAGES))
    steps, learning_rate = STAGES[arg.stage]
    steps = 4 if arg.smoke else arg.steps or steps
    data = dict(name="digits") if arg.smoke else dict(name="idx", root=arg.root, canvas=64)
    train, test = dict(data, split="train"), dict(data, split="test")
    if arg.smoke:
        test["per_class"] = 2

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 8 if arg.smoke else 16
    # The head too: adaptation goes on with the classes that the dense run has learned.
    config.init_from = dict(encoder=arg.init, head=arg.init) if arg.init else None
    config.task = dict(name="classify" if arg.stage == "dense" else "sparsevit")
    config.model = dict(
        name="sparse_swin", width=16, depths=(2, 2, 2), num_heads=(1, 2, 4), patch_size=2, window_size=4
    )
    config.data = dict(
        image_size=(64, 64),
        train=train,
        eval=test,
        transform=dict(name="supervised", crop="none", flip=True),
        preprocess=dict(mean=(14.0, 14.0, 14.0), std=(49.0, 49.0, 49.0)),
        eval_batch_size=None if arg.smoke else 250,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=learning_rate,
        weight_decay=0.05,
        weight_decay_multipliers=((".*norm.*", 0.0), (".*relative_position_bias_table", 0.0), (".*", 1.0)),
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 10)),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 25
    config.checkpoint = dict(every=None if arg.smoke else max(1, steps // 4), keep=1)
    return config
