"""Semantic segmentation of streets: Cityscapes, 19 classes.

  vit_jax train --config cityscapes_seg:root=cityscapes,init=b1.safetensors --workdir runs/cityscapes-b1
  vit_jax train --config cityscapes_seg:trunk=swin_t,init=swin.safetensors --workdir runs/cityscapes-swin

Paper: EfficientViT (arXiv:2205.14756), section 4.3, whose authors published weights and evaluation but no training of
segmentation. The recipe is SegFormer's (arXiv:2105.15203, section 4.1, and its code): AdamW with learning rate 6e-5,
ten times as much for the head, decay 0.01 of kernels, a linear warmup over 1,500 steps and then a straight line to 0,
160,000 steps of 8 crops of 1024x1024 pixels; images scaled by 0.5 to 2, crops in which no class has more than 75%,
flip and photometric distortion. Trunks start from ImageNet: give `init`.

                    published mIoU   parameters   GMACs at 1024x2048
  efficientvit_b0   75.653             706,691     4.39
  efficientvit_b1   80.547           4,803,443    25.1
  efficientvit_b2   82.073          15,323,779    73.6
  efficientvit_b3   83.016          39,603,155   179
  efficientvit_l1   82.716          40,242,227   282
  efficientvit_l2   83.228          52,607,923   396

Published figures are those of the authors' weights (github.com/mit-han-lab/efficientvit, applications/efficientvit_seg)
on whole photos of 1024x2048. None was measured here. Here `val` squashes a photo to 1024x1024;
`photos`, at the end, counts the photo's own pixels, from windows of 1024x1024 at a stride of two thirds.
Hardware and time: not known; SegFormer's took 8 V100s.

Where this differs, without a known effect:
- recipe: it is not that of the published weights, which nobody knows.
- loss: each image counts alike, whatever the share of its pixels that have a class; mmseg divides by all pixels.
- statistics: batch norms go by the whole batch.

Arguments: `trunk` (efficientvit_b0 to efficientvit_l2, swin_t to swin_b with UPerNet, vit_s to vit_l with the linear
head), `root=FOLDER` of the data, `init`, a checkpoint of the trunk alone, `steps`, `batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.models.segmenter_variants import recipe
from vit_jax.training.config import parse_arg

IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, trunk="efficientvit_b1", root="cityscapes", init="", steps=160_000, batch=8, smoke=False)
    steps = 4 if arg.smoke else arg.steps

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = 2 if arg.smoke else arg.batch
    config.task = dict(name="segment")
    config.model = recipe(arg.trunk, "cityscapes")
    if arg.init:
        config.init_from = dict(encoder=arg.init)
    config.data = dict(
        image_size=(1024, 1024),
        preprocess=dict(resize="squash", interpolation="bilinear", **IMAGENET),
        train=dict(name="cityscapes", root=arg.root, split="train"),
        eval=dict(name="cityscapes", root=arg.root, split="val"),
        fields=dict(image=dict(name="image"), segmentation=dict(name="dense", count=19)),
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
