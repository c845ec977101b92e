"""VAR on ImageNet-1k: images of classes at 256 pixels, d16 to d30, or at 512, d36.

  vit_jax train --config var:tokenizer=runs/var-tokenizer --workdir runs/var-d16
  vit_jax train --config var:d=30,tokenizer=vae.safetensors --workdir runs/var-d30
  vit_jax sample --checkpoint runs/var-d16 --classes 207,980 --count 16 --output samples.png
  vit_jax plan --config var:d=36 --topology v5e:8x16

Paper: "Visual autoregressive modeling: scalable image generation via next-scale prediction" (arXiv:2404.02905); rates,
batches and lengths are those of the commands in its authors' README. 680 tokens in 10 maps at 256 pixels, 2240 at 512;
AdamW with beta 0.9, 0.95, 1e-4 per 256 images (d16, d20; 8e-5 above), decay 0.05 on kernels and classes, which grows to
0.08 (d30, d36), gradients clipped at 2; a warmup of a fiftieth, flat, then linear to a tenth (d16, d20) or a hundredth;
200 to 350 epochs of 768 images, of 1024 for d30; classes dropped for 10%.
Expected: FID of 50,000 samples with guidance 1.5, top-k 900 and top-p .96, as the authors' README lists them: 3.55
(d16), 2.95 (d20), 2.33 (d24), 1.97 (d30), 2.63 (d36, 512 pixels). `fid` needs the weights of the Inception of 2015.
Hardware and time: the README names 8 GPUs a node and no times.

Where this differs, without a known effect:
- interpolation: images are reduced by Pillow's bicubic, the authors' by Lanczos'; crops are the same squares, eight
  ninths of the short side at a random place, without flips.
- precision: bfloat16 with norms, softmax, the last norm, the head and parameters in float32, the authors' float16 with
  a scaled loss.
- product: the last parameters, as the authors have no moving average.

Arguments: `d`, the depth: 16, 20, 24, 30 or 36; `tokenizer`, a checkpoint of `var_tokenizer` or a safetensors file of
the authors' (vae_ch160v4096z32); `batch`, `epochs`, `smoke` for a tiny one of random tokens.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.training.config import parse_arg


class _Recipe(NamedTuple):
    """What differs between depths: rate per 256 images and the share of it at the end, batch, epochs, decay at the end,
    and how gates start."""

    rate: float
    end: float
    batch: int
    epochs: int
    decay: float
    gate_init: float


_RECIPES = {
    16: _Recipe(1e-4, 0.1, 768, 200, 0.05, 1e-3),
    20: _Recipe(1e-4, 0.1, 768, 250, 0.05, 1e-3),
    24: _Recipe(8e-5, 0.01, 768, 350, 0.05, 1e-4),
    30: _Recipe(8e-5, 0.01, 1024, 350, 0.08, 1e-5),
    36: _Recipe(8e-5, 0.01, 768, 350, 0.08, 5e-6),
}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, d=16, tokenizer="", batch=0, epochs=0, smoke=False)
    if arg.d not in _RECIPES:
        raise UserError(f"There is no VAR-d{arg.d}", f"Use d={', '.join(map(str, _RECIPES))}")
    recipe, side = _RECIPES[arg.d], 512 if arg.d == 36 else 256
    batch, epochs = arg.batch or recipe.batch, arg.epochs or recipe.epochs
    rate = recipe.rate * batch / 256
    imagenet = dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=epochs)
    config.batch_size = 8 if arg.smoke else batch
    config.task = dict(name="var", tokenizer=dict(name="var_tokenizer", dtype="bfloat16"))
    config.model = dict(
        name="var",
        depth=arg.d,
        shared_modulation=arg.d == 36,
        gate_init=recipe.gate_init,
        dtype="bfloat16",
        scan=True,
        remat="elementwise",
    )
    if arg.tokenizer:
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.data = dict(
        image_size=(side, side),
        preprocess=dict(resize="short_side", resize_to=side * 9 // 8, interpolation="lanczos"),
        train=dict(imagenet, split="train"),
        eval=dict(imagenet, split="validation"),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="largest",
            area=((8 / 9) ** 2, (8 / 9) ** 2),
            aspect=(1, 1),
            interpolation="bicubic",
            flip=False,
        ),
        eval_batch_size=8 if arg.smoke else 256,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=rate,
        b2=0.95,
        clip_norm=2.0,
        weight_decay=dict(name="cosine", start=0.05, end=recipe.decay) if recipe.decay != 0.05 else 0.05,
        weight_decay_multipliers=((".*/kernel", 1.0), ("class_embedding", 1.0)),
        schedule=dict(name="lin0", warmup_steps=0 if arg.smoke else dict(epochs=epochs / 50), end=recipe.end * rate),
        frozen=() if arg.smoke else ("tokenizer/.*",),
    )
    config.evals = dict(val=dict(name="perplexity"))
    config.eval_every = None if arg.smoke else dict(epochs=10)
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5000, keep=1)
    if arg.smoke:
        config.task.tokenizer = dict(
            name="var_tokenizer", scales=(1, 2, 4), vocab_size=32, latent_width=8, channels=16, groups=4,
            multipliers=(1, 1), num_blocks=1, phis=2,
        )  # fmt: skip
        config.model.update(depth=2, width=32, num_heads=2)
        config.data = dict(
            image_size=(8, 8), train=dict(name="digits", split="train"), eval=dict(name="digits", split="test"),
            transform=dict(name="supervised", crop="none", flip=False),
        )  # fmt: skip
    return config
