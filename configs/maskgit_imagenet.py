"""MaskGIT on ImageNet-1k: images of a class as 16x16 tokens at 256x256 pixels or 32x32 at 512x512, in 8 to 12 passes.

  vit_jax train --config maskgit_vqgan:judge=resnet50.safetensors --workdir runs/tokenizer
  vit_jax encode --checkpoint runs/tokenizer --mirrored --output tokens/
  vit_jax train --config maskgit_imagenet:tokenizer=runs/tokenizer,encoded=tokens --workdir runs/maskgit
  vit_jax sample --checkpoint runs/maskgit --classes "goldfish" --steps 8 --count 16 --output grid.png

Paper: "MaskGIT: masked generative image transformer" (arXiv:2202.04200), section 4.1 and table 1: 24 blocks of width
768 with 8 heads in the text and 16 in the authors' code, learned positions, label smoothing 0.1, dropout 0.1, Adam with
beta 0.9, 0.96, batch 256, 300 epochs; learning rate 1e-4 after 5,000 steps of warmup and decay 0.045 by the authors'
code.
Expected: an FID of 6.18 at 256x256 in 8 passes (6.06 for the authors' published weights) and 7.32 at 512x512 in 12.
Hardware and time: TPU, 4 days for 256x256 in the paper's words, from memory.

Where this differs, without a known effect:
- classes: one in ten images is shown without its class, so that samples can be guided; `--config.task.label_drop=0`
  leaves that out.
- loss: divided by all tokens of a batch, not by those that are masked.
- masks: by a cosine from none to all, as in the paper; the authors' code has a least share of one half, which is
  `--config.task.min_mask=0.5`.
- crops: from 80% of the area on, with flips.
- precision: bfloat16 with norms, softmax and parameters in float32.

Arguments: `res=256|512`, `tokenizer` a checkpoint, `encoded` a folder that `vit_jax encode` wrote, `batch`, `inception`
weights for the FID, `smoke`, a run of seconds on scikit-learn's digits with an even palette.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, res=256, tokenizer="runs/tokenizer", encoded="", batch=256, inception="", smoke=False)
    if arg.res not in (256, 512):
        raise UserError(f"There is no recipe of MaskGIT at {arg.res} pixels", "Use res=256 or res=512")
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="imagenet2012")
    batch, size = 32 if arg.smoke else arg.batch, 8 if arg.smoke else arg.res
    tokenizer = dict(name="vqgan", variant="f16", attention_levels=(), middle_attention=False, dtype="bfloat16")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else 300 * 1_281_167 // batch
    config.batch_size = batch
    config.task = dict(name="maskgit", tokenizer=dict(name="color_palette", colors=8) if arg.smoke else tokenizer)
    config.model = dict(name="maskgit", dropout_rate=0.1, attention_dropout_rate=0.1)
    if arg.smoke:
        config.model.update(width=32, depth=2, num_heads=2)
    else:
        config.model.update(dtype="bfloat16", scan=True, remat="elementwise")
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.data = dict(
        image_size=size,
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.smoke else "validation"),
        transform=dict(name="supervised", crop="none", flip=False)
        if arg.smoke
        else dict(name="supervised", crop="random", area=(0.8, 1.0), aspect=(1.0, 1.0), flip=True),
        eval_batch_size=128,
    )
    if arg.encoded:
        config.data.train = dict(name="encoded", directory=arg.encoded)
        config.data.eval = dict(name="encoded", directory=arg.encoded)
        config.data.fields = dict(indices=dict(name="encoded", directory=arg.encoded), label=dict(name="classes"))
        del config.data.transform
    elif not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=size)
    config.optim = dict(
        name="adamw",
        learning_rate=1e-4,
        weight_decay=0.045,
        b2=0.96,
        schedule=dict(name="constant", warmup_steps=2 if arg.smoke else 5000),
    )
    if not arg.smoke:
        config.optim.frozen = ("tokenizer/.*",)
        config.ema_decay = 0.9999
    settings = dict(steps=8 if arg.res == 256 else 12)
    config.evals = dict(sheet=dict(name="samples", settings=settings))
    if arg.inception:
        real = dict(name="tfds", dataset="imagenet2012", split="validation")
        config.evals.fid = dict(name="fid", inception=arg.inception, source=real, settings=settings)
    config.eval_every = None if arg.smoke else 50_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 10_000, keep=1)
    return config
