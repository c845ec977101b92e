"""The fine-tuning of the ViT paper on ImageNet, CIFAR-10, CIFAR-100, Oxford Pets and Oxford Flowers.

  vit_jax train --config vit_paper_finetune:init=PATH,dataset=cifar10,lr=0.01 --workdir runs/cifar10-0.01

Paper: "An Image is Worth 16x16 Words" (arXiv:2010.11929), section B.1.1 and table 4: SGD with momentum 0.9 (kept in
bfloat16 by the original code), batch 512, cosine with 500 steps of warmup, no weight decay, gradients clipped at norm
1, resolution 384. The learning rate is chosen on held-out training images (1% of ImageNet, 2% of CIFAR, 10% of Pets and
Flowers), then the model is trained on all of them: run the grid, then the best with `final`.

  dataset             steps   learning rates
  imagenet2012        20000   0.003, 0.01, 0.03, 0.06
  cifar10, cifar100   10000   0.001, 0.003, 0.01, 0.03
  oxford_iiit_pet,      500   0.001, 0.003, 0.01, 0.03
  oxford_flowers102

Expected (table 5, top-1 % at 384, pretrained on ImageNet-21k):

                  B/16   B/32   L/16   L/32   H/14
  imagenet2012    83.97  81.28  85.15  80.99  85.13
  cifar10         98.95  98.79  99.16  99.13  99.27
  cifar100        91.67  91.97  93.44  93.04  93.82
  oxford_iiit_pet 94.43  93.02  94.73  93.09  94.82
  flowers102      99.38  99.11  99.61  99.19  99.51

Hardware and time: the original code's README gives, on A100s of a number it does not say, 2.2 hours for B/16 on CIFAR
and 6.5 hours on ImageNet.

Where this differs:
- evaluation pixels: the whole image is squashed as in the original code, but by the interpolation that the checkpoint
  names, areas for one of this project, where the original takes the four nearest pixels. Effect unknown.
- crops for H/14: they are resized to 378 pixels at once; in the original to 384, of which 378 are seen. Effect unknown.
- dropout: that of the checkpoint. The original's README has 84.12% on ImageNet with 0.1 and 84.53% without, for B/16.
- flowers: the 1020 images of the data set's train split, of which the paper says nothing.

Arguments: `init=PATH` (must be given), `dataset`, `lr` (0: the grid's second), `res=384` (H/14 sees 378 of them),
`final` to train on all training images and evaluate on the test split, `microbatch` examples at a time where memory is
short, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.models.vit_variants import parse_variant
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

# Name in TFDS -> (share of the training images that is left after the held-out ones, test split, steps, grid).
DATASETS = {
    "imagenet2012": ("99%", "validation", 20_000, (0.003, 0.01, 0.03, 0.06)),
    "cifar10": ("98%", "test", 10_000, (0.001, 0.003, 0.01, 0.03)),
    "cifar100": ("98%", "test", 10_000, (0.001, 0.003, 0.01, 0.03)),
    "oxford_iiit_pet": ("90%", "test", 500, (0.001, 0.003, 0.01, 0.03)),
    "oxford_flowers102": ("90%", "test", 500, (0.001, 0.003, 0.01, 0.03)),
}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, init="", dataset="cifar10", lr=0.0, res=384, final=False, microbatch=0, smoke=False)
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config vit_paper_finetune:init=PATH")
    if arg.dataset not in DATASETS:
        raise UserError(f"The paper did not fine-tune on {arg.dataset!r}", nearest(arg.dataset, DATASETS))
    kept, test, steps, grid = DATASETS[arg.dataset]
    model, data = starting_point(arg.init, arg.res)
    # The original's convolution leaves out what its patches do not reach: of 384 pixels H/14 sees 378.
    patch = parse_variant(model["variant"])[1] if model["name"] == "vit" else 1
    seen = arg.res // patch * patch
    data["image_size"] = [seen, seen]
    data["preprocess"] |= dict(resize="squash", resize_to=None, trim=[arg.res - seen, arg.res - seen])
    steps = 10 if arg.smoke else steps
    train, held_out = ("train", test) if arg.final else (f"train[:{kept}]", f"train[{kept}:]")

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = 8 if arg.smoke else 512
    config.microbatch = arg.microbatch or None
    config.init_from = arg.init
    config.task = dict(name="classify")
    config.model = model
    config.data = dict(
        **data,
        train=dict(name="tfds", dataset=arg.dataset, split=train),
        eval=dict(name="tfds", dataset=arg.dataset, split=held_out),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="inception",
            area=(0.05, 1.0),
            aspect=(0.75, 1.33),
            interpolation="bilinear",
            antialias=False,
            flip=True,
        ),
    )
    config.optim = dict(
        name="sgd",
        learning_rate=arg.lr or grid[1],
        momentum=0.9,
        accumulator_dtype="bfloat16",
        clip_norm=1.0,
        # The paper warms up for 500 steps; where a run has no more than that, a fifth of it, as in the original code.
        schedule=dict(name="cosine", warmup_steps=500 if steps > 500 else steps // 5),
    )
    config.evals = {"test" if arg.final else "held_out": dict(name="classification")}
    config.eval_every = max(1, steps // 10)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=max(1, steps // 10), keep=1)
    return config
