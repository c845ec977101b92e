"""What self-supervised pretraining is worth, in small: one small ViT, four ways to train it, on a laptop.

  vit_jax train --config shifted_fashion:method=simclr --workdir runs/simclr
  vit_jax train --config shifted_fashion_finetune:init=runs/simclr --workdir runs/simclr-1000

Paper: SimCLR (arXiv:2002.05709), MAE (arXiv:2111.06377) and MoCo v3 (arXiv:2104.02057) in small, and for comparison
`method=supervised`, the same trunk on all labels. The trunk is the same for all: 36 patches of 6x6 pixels, sine-cosine
positions, features by averaging the tokens. Data: the 60,000 training images of Fashion-MNIST, each at a random place
on a canvas of 36x36 pixels; centred they are too easy, raw pixels are good features of them.
Expected: the table that `benchmarks/self_supervised.py` makes. Hardware: 2 CPU cores. Time: at most 5 minutes.

Arguments: `method`, `seed`, `root=FOLDER` of the IDX files, `smoke` for a run of a few seconds on scikit-learn's
digits, which need no package.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

# Grey images: of the distortions of colour, brightness and contrast remain.
VIEWS = dict(
    name="two_views", area=(0.3, 1.0), brightness=0.4, contrast=0.4, saturation=0.0, hue=0.0, gray=0.0, blur=0.0
)  # fmt: skip
METHODS = {
    "supervised": dict(
        steps=800,
        batch_size=128,
        task=dict(name="classify"),
        transform=dict(name="supervised", crop="none", flip=True),
        learning_rate=2e-3,
    ),
    "simclr": dict(
        steps=900,
        batch_size=64,
        task=dict(name="simclr", temperature=0.2),
        transform=VIEWS,
        learning_rate=2e-3,
    ),
    "mae": dict(
        steps=3000,
        batch_size=64,
        task=dict(name="mae", mask_ratio=0.75, decoder_width=64, decoder_depth=2, decoder_heads=2),
        transform=dict(name="supervised", crop="none", flip=True),
        learning_rate=1.5e-3,
        b2=0.95,
    ),
    "moco_v3": dict(
        steps=1150,
        batch_size=64,
        task=dict(name="moco_v3", temperature=0.2, hidden=256, out=64),
        transform=VIEWS,
        learning_rate=2e-3,
        ema_decay=dict(name="cosine", start=0.99, end=1.0),
        frozen=("encoder/embedding/.*",),
    ),
}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, method="simclr", seed=0, root=FASHION_MNIST, smoke=False)
    if arg.method not in METHODS:
        raise UserError(f"Unknown method {arg.method!r}", nearest(arg.method, METHODS))
    method = METHODS[arg.method]
    data = dict(name="digits") if arg.smoke else dict(name="idx", root=arg.root, canvas=36)
    train, test = dict(data, split="train"), dict(data, split="test")

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else method["steps"]
    config.batch_size = 32 if arg.smoke else method["batch_size"]
    config.task = method["task"]
    config.model = dict(
        name="vit", variant="mu/6", width=96, depth=4, mlp_dim=384, num_heads=3, pooling="mean", posemb="sincos2d_mae"
    )
    config.data = dict(
        image_size=(36, 36),
        train=train,
        eval=test,
        transform=method["transform"],
        preprocess=dict(mean=(44.0, 44.0, 44.0), std=(79.0, 79.0, 79.0)),
        eval_batch_size=None if arg.smoke else 500,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=method["learning_rate"],
        weight_decay=0.05,
        b2=method.get("b2", 0.999),
        clip_norm=1.0,
        frozen=method.get("frozen", ()),
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else method["steps"] // 10),
    )
    config.ema_decay = method.get("ema_decay")
    # Enough to see it rise; the benchmark measures with all images.
    few = train if arg.smoke else dict(train, examples=2000)
    config.evals = dict(knn=dict(name="knn", train=few, test=test if arg.smoke else dict(test, examples=1000)))
    if arg.method == "supervised":
        config.evals.val = dict(name="classification", every=None)
    config.eval_every = 10 if arg.smoke else method["steps"] // 2
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else method["steps"] // 4, keep=1)
    return config
