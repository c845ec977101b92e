"""Swin fine-tuned on ImageNet-1k, at 384 pixels with windows of 12, or at 224 after ImageNet-22k.

  vit_jax train --config swin_finetune384:init=runs/swin-b --workdir runs/swin-b-384
  vit_jax train --config swin_finetune384:init=runs/swin-b-22k,res=224,drop_path=0.2 --workdir runs/swin-b

`init` may also be a published file, of timm, transformers or the authors. Tables of relative positions follow the
window bicubically, head by head.

Paper: "Swin Transformer: hierarchical Vision Transformer using shifted windows" (arXiv:2103.14030), section 4.1 and
table 1, with the numbers of the authors' code: 30 epochs, 5 of warmup, AdamW with learning rate 4e-5 and decay 1e-8 at
batch 1024, cosine to 4e-7; augmentation as in swin_i1k.py; stochastic depth 0.5 for B from ImageNet-1k, and 0.2 for B
and L after ImageNet-22k.

Expected: 84.5% for B at 384 from ImageNet-1k; after ImageNet-22k 85.2% (B at 224), 86.4% (B at 384), 86.3% (L at 224)
and 87.3% (L at 384), by the authors' repository. Hardware and time: 8 GPUs, in a time that the authors do not give.

Evaluation: at 384 the whole image, resized to a square; at 224 the short side to 256 and the centre of it.

Where this differs, without a known effect:
- warmup: it starts at 0, theirs at 4e-8.
- mixing: each image has a mixup weight or cutmix box of its own and its neighbour in the batch as partner; theirs has
  one weight or box for the 64 images of a GPU, which are mixed with themselves in reverse order.
- head: it starts at zero; theirs goes on with the pretrained one, after ImageNet-22k with its rows of the 1000 classes.
- precision: bfloat16 with norms, softmax and parameters in float32, theirs float16 with a scaled loss.

Arguments: `init=PATH` of the pretrained checkpoint (must be given), `res` (384 or 224; windows have a 32nd of it),
`drop_path`, `epochs`, `batch` (the learning rate follows), `microbatch` examples at a time where memory is short,
`smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, init="", res=384, drop_path=0.5, epochs=30, batch=1024, microbatch=0, smoke=False
    )  # fmt: skip
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config swin_finetune384:init=PATH")
    if arg.res % 32:
        raise UserError(f"Windows of a 32nd of {arg.res} pixels are no whole places", "Set res to a multiple of 32")
    model, data = starting_point(arg.init)
    if model["name"] != "swin":
        raise UserError(
            f"{arg.init} holds a {model['name']}, and this recipe is of Swin", "Use --config finetune"
        )  # fmt: skip
    resize = dict(resize="squash") if arg.res >= 384 else dict(resize="short_side", resize_to=arg.res * 256 // 224)
    kept = {key: data["preprocess"][key] for key in ("mean", "std") if key in data["preprocess"]}
    mean = tuple(min(255, round(value)) for value in data["preprocess"]["mean"])

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.microbatch = arg.microbatch or None
    config.init_from = dict(encoder=arg.init)
    config.task = dict(name="classify", label_smoothing=0.1)
    config.model = dict(model, window_size=arg.res // 32, drop_path_rate=arg.drop_path)
    config.data = dict(
        image_size=(arg.res, arg.res),
        preprocess=dict(interpolation="bicubic", **resize, **kept),
        train=dict(name="tfds", dataset="imagenet2012", split="train"),
        eval=dict(name="tfds", dataset="imagenet2012", split="validation"),
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
    scale = arg.batch / 1024
    config.optim = dict(
        name="adamw",
        learning_rate=4e-5 * scale,
        b2=0.999,
        weight_decay=1e-8,
        clip_norm=5.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else dict(epochs=5), end=4e-7 * scale),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = 10 if arg.smoke else dict(epochs=5)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
