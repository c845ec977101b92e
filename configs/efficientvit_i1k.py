"""EfficientViT on ImageNet-1k from scratch: all sizes whose figures are published.

  vit_jax train --config efficientvit_i1k --workdir runs/efficientvit-b1
  vit_jax train --config efficientvit_i1k:variant=L2 --workdir runs/efficientvit-l2

Paper: "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction" (arXiv:2205.14756), the
ImageNet part; the values are those of the authors' code (mit-han-lab/efficientvit, applications/efficientvit_cls at
de7d773): AdamW with learning rate 2.5e-4 per 128 images, 1.5e-4 for L, decay 0.1 of kernels alone, batch 1024, 20
epochs of warmup and a cosine over 300, binary cross-entropy as the mean over classes with label smoothing 0.1, each
number of the gradient clipped at 2, mixup or cutmix with equal odds, RandAugment as timm has it (standard deviation
1), erasing of 20% for L, stochastic depth that grows to the rate below, and a moving average of decay 0.9998 (1 -
exp(-t / 2000)), which is what is evaluated. Every step has images of 128, 160, 192 or 224 pixels. L learns from its
average too (MESA): 75 epochs after the warmup its answers become targets beside the labels. Running statistics are
estimated anew on 16,000 training images at the end.

       mixup, cutmix   RandAugment   stochastic depth   MESA   expected at 224
  B1   0.1             1 of 3        0.05               -      79.39%
  B2   0.1             1 of 3        0.05               -      82.10%
  B3   0.3             2 of 6        0.1                -      83.47%
  L1   0.2             2 of 5        0.1                2      84.48%
  L2   0.4             2 of 5        0.1                2.75   85.05%
  L3   0.6             2 of 6        0.1                3.5    85.81%

Expected figures are the authors' (the README of that folder), at a crop of the whole short side, 95% of it for B1.
Hardware and time: 8 GPUs of a kind that is not named; the time is not known.

The step is compiled four times, once for each size, when the first step of that size comes; the first step has the
largest, so that what does not fit is known then, and what `vit_jax plan` says is that of 224 pixels.

Where this differs, without a known effect:
- sizes: images are cropped, augmented and mixed at 224 pixels, and resized on the device with an antialiased cubic; the
  authors' loader crops to each step's size, by an interpolation that is drawn for each image.
- mixing: a row's partner is its neighbour, its own weight is the larger one, and a batch has one cutmix box, where the
  authors draw partners anew and a box for each image.
- stochastic depth: its rates are these from the first step on; the authors' grow with the run.
- evaluation: statistics are estimated anew once, at the end; the authors do it before each evaluation.
- precision: bfloat16 with norms and parameters in float32; the authors' B is float32.

Arguments: `variant` (B1, B2, B3, L1, L2, L3), `data=FOLDER` with the splits train and test instead of ImageNet,
`epochs` after the warmup, `batch`, `smoke`.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What depends on the size.

    Args:
        alpha: of mixup and cutmix.
        randaugment: number of operations, and their magnitude.
        drop_path_rate: of the last residual branch.
        rate: learning rate for 128 images.
        drop_path_skip: first residual branches that are never dropped.
        mesa: weight of what the average says; 0 for no teacher.
        erase: share of the images in which a rectangle is erased.
        crop: share of the short side that evaluation sees.
    """

    alpha: float
    randaugment: tuple[int, int]
    drop_path_rate: float
    rate: float = 2.5e-4
    drop_path_skip: int = 0
    mesa: float = 0.0
    erase: float = 0.0
    crop: float = 1.0


LARGE = dict(drop_path_rate=0.1, rate=1.5e-4, erase=0.2)
RECIPES = {
    "B1": Recipe(0.1, (1, 3), 0.05, crop=0.95),
    "B2": Recipe(0.1, (1, 3), 0.05),
    "B3": Recipe(0.3, (2, 6), 0.1),
    "L1": Recipe(0.2, (2, 5), drop_path_skip=2, mesa=2.0, **LARGE),
    "L2": Recipe(0.4, (2, 5), drop_path_skip=3, mesa=2.75, **LARGE),
    "L3": Recipe(0.6, (2, 6), drop_path_skip=3, mesa=3.5, **LARGE),
}
WARMUP, SIZE = 20, 224


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, variant="B1", data="", epochs=300, batch=1024, smoke=False)
    variant = arg.variant.upper()
    if variant not in RECIPES:
        raise UserError(f"There is no recipe for EfficientViT-{arg.variant}", nearest(variant, RECIPES))
    recipe = RECIPES[variant]
    source = dict(name="folder", root=arg.data) if arg.data else dict(name="tfds", dataset="imagenet2012")
    layers, magnitude = recipe.randaugment

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=WARMUP + arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="efficientvit", label_smoothing=0.1, sizes=[64, 96] if arg.smoke else [128, 160, 192, SIZE])
    if recipe.mesa:
        # A quarter of the run after its warmup.
        after = 5 if arg.smoke else dict(epochs=WARMUP + arg.epochs / 4)
        config.task.mesa = dict(ratio=recipe.mesa, after=after)
    config.model = dict(
        name="efficientvit", variant=variant, drop_path_rate=recipe.drop_path_rate,
        drop_path_skip=recipe.drop_path_skip, dtype="bfloat16",
    )  # fmt: skip
    config.data = dict(
        image_size=(SIZE, SIZE),
        preprocess=dict(
            resize="short_side",
            resize_to=math.ceil(SIZE / recipe.crop),
            interpolation="bicubic",
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
        ),
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.data else "validation"),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="torchvision",
            area=(0.08, 1.0),
            interpolation="bicubic",
            flip=True,
            # timm's rand-n1-m3-mstd1.0-inc1 and so on.
            randaugment=dict(policy="timm", layers=layers, magnitude=magnitude, magnitude_std=1.0, probability=0.5),
        ),
        mix=dict(mixup=recipe.alpha, cutmix=recipe.alpha, erase=recipe.erase, erase_fill="mean"),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=recipe.rate * arg.batch / 128,
        weight_decay=0.1,
        clip_value=2.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else dict(epochs=WARMUP)),
    )
    config.ema = dict(decay=dict(name="ramp", end=0.9998, timescale=2000))
    config.recalibrate = 8 if arg.smoke else 16_000
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = 10 if arg.smoke else dict(epochs=10)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
