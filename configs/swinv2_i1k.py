"""Swin v2 on ImageNet-1k from scratch, 300 epochs at 256 pixels.

  vit_jax train --config swinv2_i1k:variant=T --workdir runs/swinv2-t
  vit_jax train --config swinv2_i1k:variant=B,window=16 --workdir runs/swinv2-b16

Paper: "Swin Transformer V2: scaling up capacity and resolution" (arXiv:2111.09883), with the numbers of the authors'
code, which are those of swin_i1k.py: AdamW with learning rate 1e-3 and decay 0.05 at batch 1024 (not on norms, biases
and what computes positions), 20 epochs of warmup, cosine to 1e-5, gradients clipped at 5, label smoothing 0.1,
RandAugment(9, 0.5) as timm has it, mixup 0.8, cutmix 1.0, random erasing of 25%, and stochastic depth by size.

     stochastic depth   expected, windows of 8 and of 16   images a second, evaluated
  T  0.2                81.8%  82.8%                        572  437
  S  0.3                83.7%  84.1%                        327  257
  B  0.5                84.2%  84.6%                        217  174

Expected figures and rates are those of the authors' repository, on one V100. Hardware and time: 8 GPUs, in a time that
they do not give.

Evaluation: short side to 292, centre crop of 256.

Where this differs, without a known effect:
- warmup: it starts at 0, theirs at 1e-6.
- initial values: matrices are drawn uniformly by Glorot and Bengio's rule, scales of norms start at one, cosines are
  multiplied by 4 at first, and the head starts at zero; theirs are normal with a standard deviation of 0.02, zero in
  the blocks, 10, and normal.
- mixing: each image has a mixup weight or cutmix box of its own and its neighbour in the batch as partner; theirs has
  one weight or box for the images of a GPU, which are mixed with themselves in reverse order.
- precision: bfloat16 with norms, softmax and parameters in float32, theirs float16 with a scaled loss.

Arguments: `variant` (T, S, B), `window` (8, 16), `epochs`, `batch` (the learning rate follows), `microbatch` examples
at a time where memory is short, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

DROP_PATH = {"T": 0.2, "S": 0.3, "B": 0.5}
IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, variant="T", window=8, epochs=300, batch=1024, microbatch=0, smoke=False)
    variant = arg.variant.upper()
    if variant not in DROP_PATH:
        raise UserError(f"There is no recipe for Swin v2 {arg.variant!r} on ImageNet-1k", nearest(variant, DROP_PATH))

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.microbatch = arg.microbatch or None
    config.task = dict(name="classify", label_smoothing=0.1)
    config.model = dict(
        name="swin_v2", variant=variant, window_size=arg.window, drop_path_rate=DROP_PATH[variant], dtype="bfloat16"
    )
    config.data = dict(
        image_size=(256, 256),
        preprocess=dict(resize="short_side", resize_to=292, interpolation="bicubic", **IMAGENET),
        train=dict(name="tfds", dataset="imagenet2012", split="train"),
        eval=dict(name="tfds", dataset="imagenet2012", split="validation"),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="torchvision",
            area=(0.08, 1.0),
            interpolation="bicubic",
            flip=True,
            # timm's rand-m9-mstd0.5-inc1, filled with the mean colour.
            randaugment=dict(
                policy="timm", layers=2, magnitude=9, magnitude_std=0.5, probability=0.5, fill=(124, 116, 104)
            ),
        ),
        mix=dict(mixup=0.8, cutmix=1.0, per="example", erase=0.25),
    )
    scale = arg.batch / 1024
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3 * scale,
        b2=0.999,
        weight_decay=0.05,
        weight_decay_multipliers=((".*/positions/.*", 0.0),),
        clip_norm=5.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else dict(epochs=20), end=1e-5 * scale),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = 10 if arg.smoke else dict(epochs=5)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
