"""iGPT on ImageNet-1k: pixels of 32x32, 48x48 or 64x64 images one after the other, and a linear probe in the middle.

  vit_jax prepare palette --config color_palette --output runs/palette
  vit_jax train --config igpt_imagenet:variant=L,res=48,palette=runs/palette --workdir runs/igpt-l
  vit_jax sample --checkpoint runs/igpt-l --count 16 --output grid.png

Paper: "Generative pretraining from pixels" (ICML 2020), sections 3.2 to 3.4: 512 colours, Adam with beta 0.9, 0.95,
batch 128, a learning rate that warms up for one epoch and falls to zero on a cosine, no dropout, one million steps
(two for L); random crops.
Expected: a linear probe of 60.3% (L, 32x32) and 65.2% (L, 48x48), as listed for the paper; it takes the best block, and
which one that is the paper shows in figure 2: it lies in the middle, whose features are measured here.
Hardware and time: not checked.

Batch, steps, warmup and decay are written down from memory of the paper.
Where this differs, without a known effect:
- learning rate: 3e-3 for all sizes; the authors took the best of several for each.
- crops: from 40% of the area on, with flips.
- validation: the 4% of the training images that the authors hold out are trained on.
- precision: bfloat16 with norms, softmax and parameters in float32.

Arguments: `variant=S|M|L`, `res=32|48|64`, `palette` a checkpoint of `color_palette`, `steps`, `batch`, `smoke`, a run
of seconds on scikit-learn's digits with an even palette.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.models.igpt import VARIANTS
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, variant="S", res=32, palette="runs/palette", steps=0, batch=128, smoke=False)
    if arg.variant not in VARIANTS:
        raise UserError(f"There is no iGPT {arg.variant!r}", nearest(arg.variant, VARIANTS))
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="imagenet2012")
    test = dict(source, split="test" if arg.smoke else "validation")
    steps = arg.steps or (20 if arg.smoke else 2_000_000 if arg.variant == "L" else 1_000_000)

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = 32 if arg.smoke else arg.batch
    config.task = dict(
        name="autoregressive", conditional=False, tokenizer=dict(name="color_palette", colors=8 if arg.smoke else 512)
    )
    config.model = dict(name="igpt", variant=arg.variant)
    if arg.smoke:
        config.model.update(width=32, depth=2, num_heads=2)
    else:
        config.model.update(dtype="bfloat16", scan=True, remat="elementwise")
        config.init_from = dict(tokenizer=arg.palette)
    config.data = dict(
        image_size=8 if arg.smoke else arg.res,
        train=dict(source, split="train"),
        eval=test,
        transform=dict(name="supervised", crop="none", flip=False)
        if arg.smoke
        else dict(name="supervised", crop="random", area=(0.4, 1.0), flip=True),
        eval_batch_size=128,
    )
    if not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=arg.res)
    config.optim = dict(
        name="adamw",
        learning_rate=3e-3,
        weight_decay=0.0,
        b2=0.95,
        schedule=dict(name="cosine", warmup_steps=2 if arg.smoke else dict(epochs=1)),
    )
    if not arg.smoke:
        config.optim.frozen = ("tokenizer/.*",)
    config.evals = dict(
        val=dict(name="bits"),
        probe=dict(name="linear_probe", train=dict(source, split="train"), test=test),
    )
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 10_000, keep=1)
    return config
