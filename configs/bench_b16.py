"""B/16 as codebases are compared by memory and speed: 224 pixels, 64 images a chip, Adam, sigmoid loss, 1000 classes.

  vit_jax plan --config bench_b16 --topology v5e:2x2
  vit_jax plan --config bench_b16:remat=full,scan --topology v5e:2x2
  vit_jax bench --config bench_b16:chips=1 --profile traces/b16

It is not a recipe and has no expected accuracy; what was measured and planned is in docs/benchmarks.md. The data
is read by `vit_jax train` alone.

Hardware and time: any.

Arguments: `variant`, `chips`, `per_chip` (images), `dtype`, `remat` (none, elementwise, dots, full), `scan`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, variant="B/16", chips=4, per_chip=64, dtype="bfloat16", remat="elementwise", scan=False, smoke=False
    )
    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else 1000
    config.batch_size = 8 if arg.smoke else arg.per_chip * arg.chips
    config.task = dict(name="classify", objective="sigmoid")
    config.model = dict(
        name="vit", variant=arg.variant, dtype=arg.dtype, head_bias_init=-6.9, remat=arg.remat, scan=arg.scan
    )
    config.data = dict(
        image_size=(224, 224),
        preprocess=dict(resize="short_side", resize_to=256),
        train=dict(name="tfds", dataset="imagenet2012", split="train"),
        transform=dict(name="supervised", crop="random", area=(0.05, 1.0), flip=True),
    )
    config.optim = dict(name="adamw", learning_rate=1e-3, schedule=dict(name="constant"))
    config.log_every = 5 if arg.smoke else 50
    return config
