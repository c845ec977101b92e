"""MAR on ImageNet-1k at 256 pixels, class-conditional, on a KL autoencoder's latents: MAR-B, L or H.

  vit_jax train --config mar:tokenizer=runs/kl-f16 --workdir runs/mar-b
  vit_jax train --config mar:size=h,tokenizer=runs/kl-f16 --workdir runs/mar-h

Paper: "Autoregressive image generation without vector quantization" (arXiv:2406.11838), and its authors' code
(github.com/LTH14/mar, README and main_mar.py): masked shares of at least 0.7, 64 buffer tokens, a diffusion head of 6
blocks of 1,024 (L: 8 of 1,280, H: 12 of 1,536) that sees each token four times, labels dropped at 0.1; AdamW with
learning rate 1e-4 per 256 images, decay 0.02 and beta 0.9, 0.95, batch 2048, constant after 100 epochs of warmup,
gradients clipped at 3, dropout 0.1, an average with 0.9999; squares of images, and flips.
Expected: FID 2.31 (B), 1.78 (L), 1.55 (H) after 800 epochs, of 50,000 images in 256 passes with 100 steps of the head
and guidance 2.9, 3.0 and 3.2; inception score 281.7, 296.0, 303.7 (README). It takes ImageNet's statistics of the 2015
Inception to measure that.
Hardware and time: 400 epochs of L with a smaller head (3 blocks of 1,024) in 31 hours on 32 H100 (README).

The tokenizer is a KL autoencoder of 16 channels at 1/16, config `kl_autoencoder:f=16`.

Where this differs, without a known effect:
- masks: one share for each image, where the authors draw one for the images of a device.
- crops: the largest square at a random place; theirs is the centre.
- tokenizer: theirs is trained on more than ImageNet and published as a pickle, which is not read: see the guide to
  weights.
- decay: as theirs, but for the embedding of the classes, mask token and positions, which they decay too.
- precision: bfloat16 with norms, softmax, the head's loss and parameters in float32; theirs is float16 with a scaled
  loss.

Arguments: `size` (b, l or h), `tokenizer` (a checkpoint), `epochs`, `batch`, `smoke` for a tiny one of
random latents.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.models.mar import VARIANTS
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, size="b", tokenizer="", epochs=800, batch=2048, smoke=False)
    if arg.size not in VARIANTS:
        raise UserError(f"There is no MAR of size {arg.size!r}", nearest(arg.size, VARIANTS))
    imagenet = dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    if arg.tokenizer:
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.task = dict(
        name="mar",
        tokenizer=dict(name="kl_autoencoder", variant="mar_f16"),
        label_drop=0.1,
        repeats=4,
    )
    config.model = dict(
        name="mar",
        variant=arg.size,
        buffer=64,
        mask_ratio_min=0.7,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        dtype="bfloat16",
        scan=True,
    )
    config.data = dict(
        image_size=(256, 256),
        preprocess=dict(resize="short_side", resize_to=256, interpolation="area"),
        train=dict(imagenet, split="train"),
        eval=dict(imagenet, split="validation"),
        transform=dict(
            name="supervised", crop="random", sampling="largest", area=(1.0, 1.0), aspect=(1.0, 1.0), flip=True
        ),
        eval_batch_size=8 if arg.smoke else 256,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-4 * arg.batch / 256,
        weight_decay=0.02,
        weight_decay_multipliers=(("head/.*", 0.0),),
        b2=0.95,
        clip_norm=3.0,
        frozen=() if arg.smoke else ("tokenizer/.*",),
        schedule=dict(name="constant", warmup_steps=5 if arg.smoke else dict(epochs=100)),
    )
    config.ema = dict(decay=0.9999)
    config.evals = {}
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    if arg.smoke:
        config.task.tokenizer = dict(
            name="kl_autoencoder", latent_width=4, scale=1.0, channels=8, multipliers=(1, 2), num_blocks=1,
            attention_levels=(), middle_attention=False, norm_groups=4,
        )  # fmt: skip
        config.model.update(width=32, depth=2, num_heads=2, buffer=4, head_width=16, head_depth=1)
        config.data = dict(
            image_size=(8, 8), train=dict(name="digits", split="train"), eval=dict(name="digits", split="test"),
            transform=dict(name="supervised", crop="none", flip=False),
        )  # fmt: skip
    return config
