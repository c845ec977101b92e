"""ViT on ImageNet-1k from scratch: the 90-epoch recipe of S/16, and the AugReg presets of all sizes.

  vit_jax train --config vit_i1k --workdir runs/s16
  vit_jax train --config vit_i1k:variant=B/16 --workdir runs/b16

recipe=plain (the default of S/16): "Better plain ViT baselines for ImageNet-1k" (arXiv:2205.01580): mean pooling, fixed
sin-cos positions, RandAugment(2, 10), mixup 0.2, batch 1024, AdamW with learning rate 1e-3 and decay 0.1, 10k steps of
warmup, cosine. The head has a tanh layer, as the authors' config has it; the note calls the linear head its default.
Expected: 76.5% on the validation set after 90 epochs, 80.0% after 300. Hardware and time: 6 to 7 hours for 90 epochs on
a TPU v3-8, by the authors.

recipe=augreg (the default of the others): "How to train your ViT?" (arXiv:2106.10270) as big_vision's config has it:
class token, learned positions, tanh layer, sigmoid loss with head bias -6.9, batch 4096, 300 epochs, and augmentation
by size: light1 for Ti/16, medium1 for S/32, medium2 for S/16, B/32, B/16 and L/16; other sizes need `aug`. Dropout and
stochastic depth, which helped B and L in the paper's figure 4, are off: `--config.model.dropout_rate=0.1
--config.model.drop_path_rate=0.1`.
Expected: about 79% for B/16, by an author in big_vision's issue 7. Hardware and time: TPU; the time is not known.

Evaluation: short side to 256, centre crop of 224; `held_out` is the last 1% of the training images, which training does
not see, `val` the validation set.

Where this differs, without a known effect:
- levels: a resized crop is rounded to whole levels of grey, where big_vision drops fractions.
- mixup: a row's partner is its neighbour in the global batch, in big_vision in its device's part of it.
- precision: the residual stream is bfloat16; in big_vision it is float32, and a TPU's products are bfloat16.
- few-shot: the probes, which big_vision's config means to run, and does not, are left out.

Arguments: `variant`, `recipe`, `epochs` (0: the recipe's), `aug` (none, light1, light2, medium1, medium2, strong1,
strong2; empty: the recipe's), `microbatch` examples at a time where memory is short, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.models.vit_variants import parse_variant, variant_name
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

# Magnitude of RandAugment with two operations (0 is not nothing), and alpha of mixup.
AUGMENTATIONS = {
    "none": (None, 0.0), "light1": (0, 0.0), "light2": (10, 0.2), "medium1": (15, 0.2), "medium2": (15, 0.5),
    "strong1": (20, 0.5), "strong2": (20, 0.8),
}  # fmt: skip
# What big_vision's config chose for each size; it has no other sizes.
AUGREG_DEFAULTS = {
    "Ti/16": "light1", "S/32": "medium1", "S/16": "medium2", "B/32": "medium2", "B/16": "medium2", "L/16": "medium2",
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, variant="S/16", recipe="", epochs=0, aug="", microbatch=0, smoke=False)
    variant = variant_name(arg.variant)
    recipe = arg.recipe or ("plain" if variant == "S/16" else "augreg")
    if recipe not in ("plain", "augreg"):
        raise UserError(f"Unknown recipe {recipe!r}", nearest(recipe, ("plain", "augreg")))
    plain = recipe == "plain"
    width = parse_variant(variant)[0].width
    aug = arg.aug or ("light2" if plain else AUGREG_DEFAULTS.get(variant))
    if aug is None:
        raise UserError(
            f"AugReg has no preset for {variant} on ImageNet-1k",
            f"Choose one with aug=, such as aug=medium2, or one of {', '.join(AUGREG_DEFAULTS)}",
        )
    if aug not in AUGMENTATIONS:
        raise UserError(f"Unknown augmentation {aug!r}", nearest(aug, AUGMENTATIONS))
    magnitude, mixup = AUGMENTATIONS[aug]
    # TensorFlow's crop and resizing, with its default bounds on the aspect.
    transform = dict(
        name="supervised", crop="random", sampling="inception", area=(0.05, 1.0), aspect=(0.75, 1.33),
        interpolation="bilinear", antialias=False, flip=True,
    )  # fmt: skip
    if magnitude is not None:
        transform["randaugment"] = dict(layers=2, magnitude=magnitude, translate=100.0, cutout=40.0)

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs or (90 if plain else 300))
    config.batch_size = 8 if arg.smoke else 1024 if plain else 4096
    config.microbatch = arg.microbatch or None
    config.task = dict(name="classify", objective="softmax" if plain else "sigmoid")
    config.model = dict(name="vit", variant=variant, representation_size=width, dtype="bfloat16")
    if plain:
        config.model.update(pooling="mean", posemb="sincos2d")
    else:
        # big_vision adds positions to the patches only, and initialises them by the width.
        config.model.update(pooling="token", class_token_posemb=False, posemb_stddev=width**-0.5, head_bias_init=-6.9)
    config.data = dict(
        image_size=(224, 224),
        preprocess=dict(resize="short_side", resize_to=256),
        train=dict(name="tfds", dataset="imagenet2012", split="train[:99%]"),
        eval=dict(name="tfds", dataset="imagenet2012", split="validation"),
        transform=transform,
        mix=dict(mixup=mixup),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.1,  # big_vision's 1e-4, which is not multiplied by the learning rate
        mu_dtype="bfloat16",
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else 10_000),
    )
    held_out = dict(name="tfds", dataset="imagenet2012", split="train[99%:]")
    config.evals = dict(val=dict(name="classification"), held_out=dict(name="classification", source=held_out))
    config.eval_every = 10 if arg.smoke else 2500
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
