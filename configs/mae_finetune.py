"""MAE's fine-tuning on ImageNet-1k: a pretrained ViT-B/16, L/16 or H/14 learns the classes.

  vit_jax train --config mae_i1k:variant=B/16 --workdir runs/mae-b16
  vit_jax train --config mae_finetune:init=runs/mae-b16 --workdir runs/mae-b16-tuned

Paper: "Masked autoencoders are scalable vision learners" (arXiv:2111.06377), section A.1 and table 9: AdamW with decay
0.05 and betas 0.9 and 0.999, batch 1024, 5 epochs of warmup, cosine, mixup 0.8, cutmix 1.0, label smoothing 0.1,
RandAugment(9, 0.5) as timm has it, crops of 8% to 100% and flips; the mean over the patches is normalised and
classified.
What depends on the size is as in the authors' commands for encoders trained on normalised pixels, with random erasing
of 25%. Table 9, for unnormalised ones, has 1e-3 and 0.75 for B too, and stochastic depth 0.1 for L and 0.2 for H.

         learning rate per 256   layer-wise decay   stochastic depth   epochs   expected   time on V100s
  B/16   5e-4                    0.65               0.1                100      83.6%      7 hours on 32
  L/16   1e-3                    0.75               0.2                50       85.9%      9 hours on 32
  H/14   1e-3                    0.75               0.3                50       86.9%      13 hours on 64

Expected figures and times are the authors', after 1600 epochs of pretraining; over four seeds theirs spread by 0.1.

The trunk and the preprocessing are those of the checkpoint, at its resolution; the final norm of the encoder gives way
to one after the pooling, so the checkpoint's is reported as unused, and so is its decoder.

Where this differs, without a known effect:
- positions: fixed ones stay fixed; the authors' code goes on training them, at the rate of layer 0.
- head: it starts at zero, theirs at a standard deviation of 2e-5.
- mixing: each image has a mixup weight or cutmix box of its own and its neighbour in the batch as partner; theirs has
  one weight or box for the 32 images of a GPU, which are mixed with themselves in reverse order.
- precision: bfloat16 with norms, softmax and parameters in float32, theirs float16 with a scaled loss.

Arguments: `init=PATH` of the pretrained checkpoint (must be given), `variant` whose recipe it is (by default that of
the checkpoint; smaller ones take that of B), `data=FOLDER` with the splits train and test instead of ImageNet,
`epochs`, `batch`, `layer_decay` (0: the recipe's), `microbatch` examples at a time where memory is short, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.models.vit import parse_variant
from vit_jax.naming import build_model
from vit_jax.training.config import parse_arg

# Least width of the encoder -> learning rate per 256 images, layer-wise decay, stochastic depth, epochs.
RECIPES = {1280: (1e-3, 0.75, 0.3, 50), 1024: (1e-3, 0.75, 0.2, 50), 0: (5e-4, 0.65, 0.1, 100)}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, init="", variant="", data="", epochs=0, batch=1024, layer_decay=0.0, microbatch=0, smoke=False
    )  # fmt: skip
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config mae_finetune:init=PATH")
    model, data = starting_point(arg.init)
    if model["name"] != "vit":
        raise UserError(
            f"{arg.init} holds a {model['name']}, and MAE fine-tunes Vision Transformers", "Use --config finetune"
        )
    encoder = build_model(model, num_classes=0)[0].encoder
    width = parse_variant(arg.variant)[0].width if arg.variant else encoder.width
    rate, layer_decay, drop_path, epochs = next(recipe for least, recipe in RECIPES.items() if width >= least)
    source = dict(name="folder", root=arg.data) if arg.data else dict(name="tfds", dataset="imagenet2012")
    mean = tuple(min(255, round(value)) for value in data["preprocess"]["mean"])

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs or epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.microbatch = arg.microbatch or None
    config.init_from = dict(encoder=arg.init)
    config.task = dict(name="classify", label_smoothing=0.1)
    # A class token that is no longer pooled stays where it was: the blocks have learnt to attend to it.
    pooled = dict(pooling="mean", fc_norm=True, class_token=encoder.tokens.class_token)
    config.model = dict(model, **pooled, drop_path_rate=drop_path)
    config.data = dict(
        **data,
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.data else "validation"),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="torchvision",
            area=(0.08, 1.0),
            interpolation="bicubic",
            flip=True,
            # timm's rand-m9-mstd0.5-inc1, filled with the mean colour.
            randaugment=dict(policy="timm", layers=2, magnitude=9, magnitude_std=0.5, probability=0.5, fill=mean),
        ),
        mix=dict(mixup=0.8, cutmix=1.0, per="example", erase=0.25),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=rate * arg.batch / 256,
        b2=0.999,
        weight_decay=0.05,
        layer_decay=arg.layer_decay or layer_decay,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else dict(epochs=5), end=1e-6),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = 10 if arg.smoke else dict(epochs=5)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
