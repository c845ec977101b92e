"""SAM on SA-1B: ViT-B, L or H at 1024 pixels.

  vit_jax train --config sam_sa1b:init=runs/mae-h14,variant=H/16 --workdir runs/sam-h
  vit_jax evaluate --checkpoint runs/sam-h --config sam_sa1b
  vit_jax segment --checkpoint runs/sam-h photo.jpg --points 120,80 --output masks

Paper: "Segment anything" (arXiv:2304.02643), appendix A: an MAE's encoder; 256 images a step of up to 64 masks on each
device; AdamW with learning rate 8e-4 after 250 steps of warmup, a tenth from step 60,000 and a hundredth from 86,666
of 90,000; weight decay 0.1, stochastic depth 0.4, layer-wise decay 0.8; no augmentation. Loss 20 focal + dice + the
squared error of the predicted IoU; 11 rounds of prompts. These values are written down from memory of the paper, and
were not compared with it; its training code is not public.
Expected: published files of H give mask AP 46.5 on COCO with ViTDet-H's boxes (the evaluator `instance`); a training by
this config has not been run.
Hardware and time: 256 A100, 68 hours for H (the paper's model card).

Arguments: `root` folder of SA-1B, `test` one of held-out images in the same form, `variant`, `init=PATH` of an encoder
(empty: none), `targets` masks of an image, `batch`, `smoke`.

Where this differs, without a known effect:
- focal: alpha 0.25 and gamma 2 are those of "Focal loss for dense object detection"; the paper gives none.
- ranking: the predicted IoU of all three answers to one prompt learns, as in SAM 2's public training; the paper does
  not say of which.
- masks: those that cover more than nine tenths of an image are left out in the paper, and not here.
- precision: bfloat16 with norms, softmax and parameters in float32.
"""

from ml_collections import ConfigDict

from vit_jax.models.vitdet import parse_variant
from vit_jax.training.config import parse_arg

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, root="sa1b/train", test="sa1b/test", variant="H/16", init="", targets=64, batch=256, smoke=False
    )
    parse_variant(arg.variant)

    config = ConfigDict()
    config.seed = 0
    config.steps = 4 if arg.smoke else 90_000
    config.batch_size = arg.batch
    config.init_from = dict(encoder=arg.init) if arg.init else None
    config.task = dict(name="sam", targets=arg.targets, remat=True)
    config.model = dict(
        name="sam",
        trunk=dict(name="vitdet", variant=arg.variant, drop_path_rate=0.4, dtype="bfloat16", remat="full"),
    )
    config.data = dict(
        image_size=1024,
        preprocess=dict(resize="pad", anchor="corner", interpolation="bilinear", mean=MEAN, std=STD),
        train=dict(name="sa1b", root=arg.root),
        eval=dict(name="sa1b", root=arg.test),
        fields=dict(image=dict(name="image"), masks=dict(name="masks", max_objects=arg.targets, mask_size=256)),
        transform=dict(name="padded", mean=MEAN),
        eval_batch_size=8 if arg.smoke else 64,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=8e-4 * arg.batch / 256,
        b2=0.999,
        weight_decay=0.1,
        layer_decay=0.8,
        schedule=dict(name="staircase", at=(60_000 / 90_000, 86_666 / 90_000), warmup_steps=1 if arg.smoke else 250),
    )
    config.evals = dict(val=dict(name="clicks"))
    config.eval_every = None if arg.smoke else 10_000
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 1000, keep=1)
    return config
