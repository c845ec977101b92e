"""YOLOS on COCO, from a ViT that was trained on ImageNet-1k.

  vit_jax train --config yolos_coco:coco=COCO,init=hf://timm/deit_tiny_patch16_224.fb_in1k --workdir runs/yolos-tiny
  vit_jax train --config yolos_coco:coco=COCO,variant=small,init=deit_small.safetensors --workdir runs/yolos-small

Paper: "You Only Look at One Sequence" (arXiv:2106.00666), from the DeiT of the same size; the values are those of the
commands in the authors' README (hustvl/YOLOS): 300 epochs of the tiny at 5e-5 with 16 images, 150 of the small at
2.5e-5 with 8; AdamW with weight decay 1e-4, the gradient clipped at 0.1, and the loss of DETR.

Expected, of the authors: AP 28.7 of the tiny with a short side of 512, 36.1 of the small with one of 800. Hardware: 8
GPUs of a kind that is not named. Time: not known. Nobody has trained these configs.

Where this differs, without a known effect:
- images: of one size, padded at the right and below, where the authors resize them to several sizes of their own shape.
- crops: a random part is squashed to that size, where the authors choose between resizing and DETR's crop.
- losses: means of each image, where the authors' are of the batch's boxes.
- rate: half a cosine after one epoch of warmup.

Data: `coco=FOLDER` with annotations/instances_train2017.json, train2017/ and the same of val2017.

Arguments: `coco`, `init=CHECKPOINT` of the trunk, `variant` tiny or small, `smoke`.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

CLASSES = 81  # COCO's 80, numbered from 1
IMAGES = 117_266  # of train2017 with an object


class Recipe(NamedTuple):
    """Trunk, learning rate, images in a batch, epochs, image size, and whether positions are added in the middle."""

    trunk: str
    rate: float
    batch: int
    epochs: int
    size: tuple[int, int]
    mid_positions: bool


VARIANTS = {
    "tiny": Recipe("Ti/16", 5e-5, 16, 300, (512, 864), False),
    "small": Recipe("S/16", 2.5e-5, 8, 150, (800, 1344), True),
}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, coco="coco", init="", variant="tiny", smoke=False)
    if arg.variant not in VARIANTS:
        raise UserError(f"There is no YOLOS named {arg.variant!r}", nearest(arg.variant, VARIANTS))
    recipe = VARIANTS[arg.variant]
    epoch = IMAGES // recipe.batch
    steps = 10 if arg.smoke else recipe.epochs * epoch

    def split(name: str) -> dict:
        annotations = f"{arg.coco}/annotations/instances_{name}.json"
        return dict(name="coco", annotations=annotations, images=f"{arg.coco}/{name}")

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = recipe.batch
    config.task = dict(name="detect")
    config.model = dict(
        name="yolos",
        mid_positions=recipe.mid_positions,
        trunk=dict(name="vit", variant=recipe.trunk, activation="gelu_exact", norm_epsilon=1e-12),
    )
    config.data = dict(
        image_size=recipe.size,
        train=split("train2017"),
        eval=dict(split("val2017"), empty=True),
        fields=dict(image=dict(name="image"), boxes=dict(name="boxes", count=100, classes=CLASSES)),
        transform=dict(name="supervised", area=(0.3, 1.0), interpolation="bilinear", flip=True),
        preprocess=dict(
            resize="pad", anchor="corner", interpolation="bilinear",
            mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375),
        ),
    )  # fmt: skip
    config.optim = dict(
        name="adamw",
        learning_rate=recipe.rate,
        weight_decay=1e-4,
        clip_norm=0.1,
        schedule=dict(name="cosine", warmup_steps=2 if arg.smoke else epoch),
    )
    if arg.init:
        config.init_from = dict(encoder=arg.init)
    config.evals = dict(val=dict(name="detection"))
    config.eval_every = None
    config.log_every = 100
    config.checkpoint = dict(every=None if arg.smoke else epoch)
    return config
