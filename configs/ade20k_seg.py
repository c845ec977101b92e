"""Semantic segmentation of scenes: ADE20K, 150 classes.

  vit_jax train --config ade20k_seg:trunk=efficientvit_l1,init=l1.safetensors --workdir runs/ade20k-l1
  vit_jax train --config ade20k_seg:trunk=swin_t,init=swin.safetensors --workdir runs/ade20k-swin

Paper: EfficientViT (arXiv:2205.14756), section 4.3, whose authors published weights and evaluation but no training of
segmentation. The recipe is SegFormer's (arXiv:2105.15203, section 4.1, and its code): AdamW with learning rate 6e-5,
ten times as much for the head, decay 0.01 of kernels, a linear warmup over 1,500 steps and then a straight line to 0,
160,000 steps of 16 crops of 512x512 pixels; images scaled by 0.5 to 2, crops in which no class has more than 75%,
flip and photometric distortion. Trunks start from ImageNet: give `init`.

                    published mIoU   parameters   GMACs at 512x512
  efficientvit_b1   42.840            4,791,414    3.09
  efficientvit_b2   45.941           15,293,382    9.08
  efficientvit_b3   49.013           39,546,198   22.2
  efficientvit_l1   49.191           40,409,526   36.3
  efficientvit_l2   50.702           51,462,454   45.2

Published figures are those of the authors' weights (github.com/mit-han-lab/efficientvit, applications/efficientvit_seg)
on photos whose shorter side is 512. None was measured here. Here `val` squashes a photo to 512x512;
`photos`, at the end, counts the photo's own pixels, from windows of 512x512 at a stride of two thirds.
Hardware and time: not known; SegFormer's took 8 V100s.

Where this differs, without a known effect:
- recipe: it is not that of the published weights, which nobody knows.
- loss: each image counts alike, whatever the share of its pixels that have a class; mmseg divides by all pixels.
- statistics: batch norms go by the whole batch.

Arguments: `trunk` (efficientvit_b1 to efficientvit_l2, swin_t to swin_b with UPerNet, vit_s to vit_l with the linear
head), `root=FOLDER` of the data, `init`, a checkpoint of the trunk alone, `steps`, `batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.models.segmenter_variants import recipe
from vit_jax.training.config import parse_arg

IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, trunk="efficientvit_b1", root="ADEChallengeData2016", init="", steps=160_000, batch=16, smoke=False
    )
    steps = 4 if arg.smoke else arg.steps

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = 2 if arg.smoke else arg.batch
    config.task = dict(name="segment")
    config.model = recipe(arg.trunk, "ade20k")
    if arg.init:
        config.init_from = dict(encoder=arg.init)
    config.data = dict(
        image_size=(512, 512),
        preprocess=dict(resize="squash", interpolation="bilinear", **IMAGENET),
        train=dict(name="ade20k", root=arg.root, split="training"),
        eval=dict(name="ade20k", root=arg.root, split="validation"),
        fields=dict(image=dict(name="image"), segmentation=dict(name="dense", count=150)),
        transform=dict(name="dense", scale=(0.5, 2.0), most=0.75, interpolation="bilinear"),
        eval_batch_size=1,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=6e-5,
        weight_decay=0.01,
        learning_rate_multipliers=(("head/.*", 10.0),),
        schedule=dict(name="linear", warmup_steps=max(1, min(1500, steps // 10))),
    )
    config.evals = dict(
        val=dict(name="segmentation"),
        photos=dict(name="segmentation", at="photo", windows=True, every=steps),
    )
    config.eval_every = max(1, steps // 10)
    config.checkpoint = dict(every=max(1, steps // 40), keep=2)
    return config
