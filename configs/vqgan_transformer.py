"""VQGAN's transformer on ImageNet-1k at 256x256 pixels: 16x16 tokens of a class, one after the other.

  vit_jax train --config vqgan_imagenet:vgg=vgg16.safetensors --workdir runs/vqgan
  vit_jax encode --checkpoint runs/vqgan --mirrored --output tokens/
  vit_jax train --config vqgan_transformer:tokenizer=runs/vqgan,encoded=tokens --workdir runs/transformer
  vit_jax sample --checkpoint runs/transformer --classes "goldfish" --count 16 --output grid.png

Paper: "Taming transformers for high-resolution image synthesis" (arXiv:2012.09841), section 3.2 and table 8: minGPT of
24 blocks of width 1,024 with 16 heads, AdamW with beta 0.9, 0.95 and a learning rate of 4.5e-6 times the batch; top-k
of 100 where samples are drawn.
Expected: an FID of 15.78 for classes of ImageNet, by 1.4 billion parameters (`variant=vqgan-large`: 48 blocks of width
1,536 with 24 heads, from memory) without rejection. Hardware and time: not in the paper.

Where this differs, without a known effect:
- classes: one in ten images is shown without its class, so that samples can be guided.
- steps: 100 epochs of 256 images; the paper does not say how many.
- dropout: 0.1, and a decay of 0.01 on kernels, both from memory of the authors' code.
- precision: bfloat16 with norms, softmax and parameters in float32.

Arguments: `variant=vqgan|vqgan-large`, `codes=1024|16384`, `order` (raster, columns, alternate, spiral_in, spiral_out,
z_curve, subsample, random), `tokenizer` a checkpoint, `encoded` a folder that `vit_jax encode` wrote, `batch`,
`inception` weights for the FID, `smoke`, a run of seconds on scikit-learn's digits with an even palette.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.models.token_gpt import VARIANTS
from vit_jax.naming import nearest
from vit_jax.nn.token_order import ORDERS
from vit_jax.training.config import parse_arg

CODEBOOKS = {1024: "f16", 16384: "f16_16384"}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, variant="vqgan", codes=1024, order="raster", tokenizer="runs/vqgan", encoded="", batch=256, inception="",
        smoke=False,
    )  # fmt: skip
    for value, known in ((arg.variant, VARIANTS), (arg.order, ORDERS)):
        if value not in known:
            raise UserError(f"vqgan_transformer knows no {value!r}", nearest(value, known))
    if arg.codes not in CODEBOOKS:
        raise UserError(f"There is no VQGAN of {arg.codes} codes here", "Use codes=1024 or codes=16384")
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="imagenet2012")
    batch = 32 if arg.smoke else arg.batch
    tokenizer = dict(name="vqgan", variant=CODEBOOKS[arg.codes], dtype="bfloat16")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else 100 * 1_281_167 // batch
    config.batch_size = batch
    config.task = dict(
        name="autoregressive",
        order=arg.order,
        tokenizer=dict(name="color_palette", colors=8) if arg.smoke else tokenizer,
    )
    config.model = dict(name="token_gpt", variant=arg.variant, dropout_rate=0.1, attention_dropout_rate=0.1)
    if arg.smoke:
        config.model.update(width=32, depth=2, num_heads=2)
    else:
        config.model.update(dtype="bfloat16", scan=True, remat="elementwise")
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.data = dict(
        image_size=8 if arg.smoke else 256,
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
        config.data.preprocess = dict(resize="short_side", resize_to=256)
    config.optim = dict(
        name="adamw",
        learning_rate=4.5e-6 * batch,
        weight_decay=0.01,
        b2=0.95,
        schedule=dict(name="constant"),
    )
    if not arg.smoke:
        config.optim.frozen = ("tokenizer/.*",)
    config.evals = dict(sheet=dict(name="samples"))
    if not arg.encoded:
        config.evals.val = dict(name="bits")
    if arg.inception:
        real = dict(name="tfds", dataset="imagenet2012", split="validation")
        config.evals.fid = dict(name="fid", inception=arg.inception, source=real)
    config.eval_every = None if arg.smoke else 50_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 10_000, keep=1)
    return config
