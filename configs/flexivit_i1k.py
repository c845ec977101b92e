"""FlexiViT on ImageNet-1k: one ViT for all patch sizes, distilled from a DeiT III that it starts from.

  vit_jax train --config flexivit_i1k:teacher=hf://timm/deit3_small_patch16_384.fb_in1k --workdir runs/flexivit-s
  vit_jax evaluate --checkpoint runs/flexivit-s --model.patch_size=30
  vit_jax convert runs/flexivit-s flexivit-s-20.safetensors --model.patch_size=20

Paper: "FlexiViT: One Model for All Patch Sizes" (arXiv:2212.08013), section 3.5, with the values of big_vision's
config (proj/flexivit/i1k_deit3_distill at 26c7bc8): images of 240 pixels, a patch size of 48, 40, 30, 24, 20, 16, 15,
12, 10 or 8 for each batch, parameters for patches of 32 and a grid of 7, the Kullback-Leibler divergence from the
answers of a DeiT III of the same size at 384 pixels, whose parameters the student starts from, mixup with a uniform
weight, Adam with learning rate 1e-4 and its first moment in bfloat16, gradients clipped at 1, batch 1024, 90 epochs,
5000 steps of warmup (for a folder a twentieth of the run), cosine.
Expected: with epochs=1200 82.6% (S), 84.7% (B) and 85.7% (L) with patches of 16, as timm measures the authors' files.
Hardware and time: S takes 10 hours for 90 epochs on a TPU v3-32, half of that for evaluation, by the authors' config.

The step is compiled ten times, once for each patch size, when the first step of it comes; the first step has the
smallest patches, so that what does not fit is known then. `val` is measured with patches of 16.

Where this differs, without a known effect:
- pixels: student and teacher see those of the teacher's file; in big_vision -1 to 1.
- teacher's images: those of the student enlarged from 240 to 384 pixels; theirs are resized from the crop itself.
- layer scale: the student has the teacher's; in theirs it is part of the other parameters.
- start: the teacher's kernel and positions come to the underlying sizes as its file's library resizes them.
- mixup: a row's partner is its neighbour, its own weight is the larger one, and each image has a weight of its own.
- precision: bfloat16 with norms and parameters in float32.

Arguments: `teacher=PATH` (must be given), `variant` (S, B, L: the teacher's), `data=FOLDER` with the splits train and
test instead of ImageNet, `epochs`, `batch`, `microbatch` examples at a time where memory is short, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import teacher_sections
from vit_jax.training.config import parse_arg

PATCH_SIZES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)
SIZE = 240


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, teacher="", variant="S", data="", epochs=90, batch=1024, microbatch=0, smoke=False)
    if not arg.teacher:
        raise UserError("This config needs a teacher", "Write --config flexivit_i1k:teacher=PATH")
    taught = teacher_sections(arg.teacher)
    seen = taught["teacher_sees"]
    source = dict(name="folder", root=arg.data) if arg.data else dict(name="tfds", dataset="imagenet2012")

    warmup = 5 if arg.smoke else dict(epochs=arg.epochs / 20) if arg.data else 5000

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.microbatch = arg.microbatch or None
    config.init_from = {"teacher": f"{arg.teacher}::", "": arg.teacher}
    config.task = dict(
        name="flexivit", patch_sizes=PATCH_SIZES[:2] if arg.smoke else PATCH_SIZES, **taught, form="soft", alpha=1.0
    )
    config.model = dict(
        name="vit", variant=f"{arg.variant}/16", underlying_patch=32, underlying_grid=7, gelu="exact",
        layer_norm_epsilon=1e-6, class_token_posemb=False, layer_scale_init=1e-4, dtype="bfloat16",
    )  # fmt: skip
    config.data = dict(
        image_size=(SIZE, SIZE),
        preprocess=dict(
            resize="short_side", resize_to=SIZE // 7 * 8, interpolation="bilinear", mean=seen["mean"], std=seen["std"]
        ),
        train=dict(source, split="train" if arg.data else "train[:99%]"),
        eval=dict(source, split="test" if arg.data else "validation"),
        transform=dict(
            name="supervised", crop="random", sampling="inception", interpolation="bilinear", antialias=False, flip=True
        ),
        mix=dict(mixup=1.0, per="example"),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-4,
        weight_decay=0.1,  # big_vision's 1e-5, which is not multiplied by the learning rate
        mu_dtype="bfloat16",
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=warmup),
        frozen=("teacher/.*",),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = 10 if arg.smoke else dict(epochs=5)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
