"""ViT pretrained on ImageNet-21k: the AugReg presets, and the recipe of the ViT paper.

  vit_jax train --config vit_i21k:variant=B/16 --workdir runs/b16-i21k
  vit_jax train --config vit_i21k:variant=B/16,recipe=paper --workdir runs/b16-paper

recipe=augreg (the default): "How to train your ViT?" (arXiv:2106.10270) as big_vision's config has it: mean pooling,
learned positions, sigmoid loss with head bias -10, AdamW with learning rate 1e-3 and decay 0.1, batch 4096, 10k steps
of warmup, cosine, 300 epochs, and augmentation by size: none for Ti/16 and S/32, light1 for S/16, light2 for B/32 and
B/16, medium2 for L/16; other sizes need `aug`.
Expected: after fine-tuning on ImageNet-1k at 384, the paper's best checkpoints give 85.49% (B/16), 85.59% (L/16) and
83.73% (S/16), with settings chosen for each of them.

recipe=paper: "An Image is Worth 16x16 Words" (arXiv:2010.11929), table 3: class token, tanh layer, dropout 0.1, decay
0.03, no clipping, linear to 1e-5, 90 epochs.
Expected: 47.88% (B/16), 44.04% (B/32), 49.90% (L/16) on held-out images, by the authors in vision_transformer's issue
62, and table 5 after fine-tuning (see vit_paper_finetune.py).

Hardware and time: TPU v3 pods; the ViT paper gives 0.23k TPUv3-core-days for L/16.

The data set has 21,843 classes and is not a public TFDS data set: `dataset` names one that you have built with TFDS.
Its first 51,200 images are held out, of which the second half is `val`, as in big_vision.

Where this differs, without a known effect:
- levels: a resized crop is rounded to whole levels of grey, where big_vision drops fractions.
- mixup: a row's partner is its neighbour in the global batch, in big_vision in its device's part of it.
- precision: the residual stream is bfloat16; in big_vision it is float32, and a TPU's products are bfloat16.
- duplicates: recipe=paper; the paper removed from its data what is in the test sets of its downstream tasks.
- decay: recipe=paper; kernels alone are decayed, of which the paper says nothing.

Arguments: `variant`, `recipe`, `epochs` (0: the recipe's), `aug` (see vit_i1k.py; empty: the recipe's), `dataset`,
`microbatch` examples at a time where memory is short, `smoke`.
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
    "Ti/16": "none", "S/32": "none", "S/16": "light1", "B/32": "light2", "B/16": "light2", "L/16": "medium2",
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, variant="B/16", recipe="augreg", epochs=0, aug="", dataset="imagenet21k", microbatch=0, smoke=False
    )
    if arg.recipe not in ("augreg", "paper"):
        raise UserError(f"Unknown recipe {arg.recipe!r}", nearest(arg.recipe, ("augreg", "paper")))
    paper = arg.recipe == "paper"
    variant = variant_name(arg.variant)
    width = parse_variant(variant)[0].width
    aug = arg.aug or ("none" if paper else AUGREG_DEFAULTS.get(variant))
    if aug is None:
        raise UserError(
            f"AugReg has no preset for {variant} on ImageNet-21k",
            f"Choose one with aug=, such as aug=medium2, or recipe=paper, or one of {', '.join(AUGREG_DEFAULTS)}",
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
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs or (90 if paper else 300))
    config.batch_size = 8 if arg.smoke else 4096
    config.microbatch = arg.microbatch or None
    config.task = dict(name="classify", objective="sigmoid")
    config.model = dict(name="vit", variant=variant, head_bias_init=-10.0, dtype="bfloat16")
    if paper:
        config.model.update(pooling="token", representation_size=width, dropout_rate=0.1)
    else:
        config.model.update(pooling="mean", posemb_stddev=width**-0.5)
    config.data = dict(
        image_size=(224, 224),
        preprocess=dict(resize="short_side", resize_to=256),
        train=dict(name="tfds", dataset=arg.dataset, split="full[51200:]"),
        eval=dict(name="tfds", dataset=arg.dataset, split="full[25600:51200]"),
        transform=transform,
        mix=dict(mixup=mixup),
    )
    warmup = 5 if arg.smoke else 10_000
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.03 if paper else 0.1,
        mu_dtype="bfloat16",
        clip_norm=None if paper else 1.0,  # table 3 has clipping for training on ImageNet-1k alone
        schedule=dict(name="linear", warmup_steps=warmup, end=1e-5)
        if paper
        else dict(name="cosine", warmup_steps=warmup),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = 10 if arg.smoke else 10_000
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
