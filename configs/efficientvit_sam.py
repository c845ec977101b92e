"""EfficientViT-SAM on SA-1B: an encoder learns from SAM's, then all of it is trained on masks.

  vit_jax train --config efficientvit_sam:data=sa1b,init=sam-vit-huge --workdir runs/l0-distilled
  vit_jax train --config efficientvit_sam:stage=train,data=sa1b,init=runs/l0-distilled --workdir runs/l0

Paper: "EfficientViT-SAM: Accelerated Segment Anything Model Without Accuracy Loss" (arXiv:2402.05008), section 3.2 and
table 2. In the first stage the embedding of SAM's ViT-H, frozen, is the target of a squared error; prompts and decoder
are SAM's. The values of the second stage are those of the authors' code (mit-han-lab/efficientvit,
applications/efficientvit_sam/configs at de7d773): AdamW with a learning rate of 4e-7 for each 4 images, 8e-7 for the
L series, which is 3.2e-6 and 6.4e-6 for the 32 images of 8 GPUs; cosine over 2 epochs without warmup, decay 0.1 but
of norms and biases, each number of the gradient clipped at 2; 64 masks an image, each asked for by its box or by 1 to
10 points in it with equal odds, and the best of three answers counts. Flips are the only augmentation.

        image   COCO mAP, of ViTDet's boxes
  L0    512     45.7
  L1    512     46.2
  L2    512     46.6
  XL0   1024    47.5
  XL1   1024    47.8

Expected figures are the authors' (the README of that folder). Hardware and time: 8 GPUs; neither their kind nor the
time is said.

Where this differs, without a known effect:
- distillation: its optimizer, length and augmentation are published nowhere; AdamW at 1e-4 per 32 images over 2 epochs
  is ours. The L series sees the teacher's images of 1024 pixels reduced on the device.
- loss: 20 times the focal loss and the dice loss of all pixels of masks of 256x256, as the paper says; the authors'
  code takes cross-entropy for the former, both at 112x112 places of which most are where the answer is uncertain.
- answers: always three; the authors ask for one, with equal odds, and train its mask so.
- precision: bfloat16 with norms and parameters in float32.

Arguments: `init`, a SAM with a ViT-H for the first stage, and for the second what the first left; `data`, a folder of
unpacked SA-1B; `variant` (L0, L1, L2, XL0, XL1); `stage`, distil or train; `batch`, `epochs`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

STAGES = ("distil", "train")
SIZES = {"L0": 512, "L1": 512, "L2": 512, "XL0": 1024, "XL1": 1024}
FRAME = 1024  # pixels of a side of the teacher's images, and of the frame of points


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, init="", data="sa1b", variant="L0", stage="distil", batch=32, epochs=2, smoke=False)
    if arg.stage not in STAGES:
        raise UserError(f"Unknown stage {arg.stage!r}", nearest(arg.stage, STAGES))
    if arg.variant not in SIZES:
        raise UserError(f"There is no EfficientViT-SAM named {arg.variant!r}", nearest(arg.variant, SIZES))
    distils, size = arg.stage == "distil", SIZES[arg.variant]
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config efficientvit_sam:init=PATH")
    seen = FRAME if distils else size
    images = dict(name="sa1b", root=arg.data)

    config = ConfigDict()
    config.seed = 0
    config.steps = 4 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 2 if arg.smoke else arg.batch
    config.model = dict(name="efficientvit_sam", variant=arg.variant, dtype="bfloat16")
    fields = dict(image=dict(name="image"))
    if distils:
        config.task = dict(
            name="distil_encoder",
            teacher=dict(name="sam", trunk=dict(name="vitdet", variant="H/16", dtype="bfloat16")),
            student_size=None if size == FRAME else (size, size),
        )
        config.init_from = dict(teacher=f"{arg.init}::", prompts=arg.init, decoder=arg.init)
    else:
        config.task = dict(name="sam", targets=64, boxes=0.5, points=10, corrections=0, refinements=0)
        config.init_from = {name: arg.init for name in ("encoder", "neck", "prompts", "decoder")}
        fields["masks"] = dict(name="masks", max_objects=64, mask_size=256)
    config.data = dict(
        image_size=(seen, seen),
        preprocess=dict(
            resize="pad", anchor="corner", interpolation="bilinear", mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
        ),
        train=images,
        fields=fields,
        transform=dict(name="supervised", crop="none", flip=True),
    )  # fmt: skip
    rate = 1e-4 if distils else 4e-7 * (2 if size == 512 else 1) * 8
    config.optim = dict(
        name="adamw",
        learning_rate=rate * arg.batch / 32,
        weight_decay=0.1,
        weight_decay_multipliers=((".*norm.*", 0.0), (".*bias", 0.0), (".*", 1.0)),
        clip_value=2.0,
        schedule=dict(name="cosine", warmup_steps=0),
        frozen=("teacher/.*", "prompts/.*", "decoder/.*") if distils else (),
    )
    config.log_every = 2 if arg.smoke else 100
    config.checkpoint = dict(every=4 if arg.smoke else 5000, keep=1)
    return config
