"""DiT on ImageNet-1k at 256 pixels: a Transformer diffuses the latents of Stable Diffusion's autoencoder.

  vit_jax train --config dit_imagenet256:variant=B/4,steps=400000,tokenizer=VAE --workdir runs/dit-b4
  vit_jax train --config dit_imagenet256:tokenizer=VAE --workdir runs/dit-xl2
  vit_jax sample --checkpoint runs/dit-xl2 --steps 250 --spacing linspace --guidance 1.5 --classes 207,360 --output DIR

Paper: "Scalable diffusion models with Transformers" (arXiv:2212.09748), section 4, and its authors' code
(github.com/facebookresearch/DiT, train.py): AdamW at a constant 1e-4 without decay, batches of 256, T 1,000 with linear
noise from 1e-4 to 0.02, learned variances, labels dropped at 0.1, an average with 0.9999, crops of the centre and
flips. All sizes were compared after 400,000 steps, XL/2 went on to 7 million. XL/2 has 674,834,720 parameters.
Expected: FID 2.27 and inception score 278.24 of XL/2 after 7 million steps (README), of 50,000 images in 250 steps with
guidance 1.5; 2.21 of the ported weights in float32. It takes ImageNet's statistics of the 2015 Inception to measure
that. Not measured here.
Hardware and time: TPUs (README); of time here nothing is known.

`tokenizer` is a KL autoencoder at 1/8 with 4 channels, scaled by 0.18215: a folder of diffusers' AutoencoderKL, or a
run of `kl_autoencoder:f=8`.

Where this differs, without a known effect:
- latents: their Gaussian's mean; theirs are drawn from it.
- crops: the largest square at a random place; theirs is the centre.
- guidance: of all four channels of the latents, as in diffusers; the authors' code guides the first three.
- precision: bfloat16 with norms and parameters in float32.

Arguments: `variant` ("S", "B", "L" or "XL", patches "/2", "/4" or "/8"), `steps`, `tokenizer` (a checkpoint), `smoke`
for a tiny one of random latents.
"""

from ml_collections import ConfigDict

from vit_jax.models.dit import VARIANTS
from vit_jax.models.vit_variants import parse_size
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, variant="XL/2", steps=7_000_000, tokenizer="", smoke=False)
    _, patch = parse_size(arg.variant, VARIANTS, "DiT")
    imagenet = dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else 256
    if arg.tokenizer:
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.task = dict(
        name="ddpm",
        tokenizer=dict(name="kl_autoencoder", variant="f8"),
        conditional=True,
        label_drop=0.1,
        variance="learned_range",
    )
    config.model = dict(
        name="dit", variant=arg.variant, grid_side=32 // patch, dtype="bfloat16", scan=True, remat="elementwise"
    )
    config.data = dict(
        image_size=(256, 256),
        preprocess=dict(resize="short_side", resize_to=256),
        train=dict(imagenet, split="train"),
        eval=dict(imagenet, split="validation"),
        transform=dict(
            name="supervised", crop="random", sampling="largest", area=(1.0, 1.0), aspect=(1.0, 1.0), flip=True
        ),
        eval_batch_size=8 if arg.smoke else 256,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-4,
        weight_decay=0.0,
        frozen=() if arg.smoke else ("tokenizer/.*",),
        schedule=dict(name="constant"),
    )
    config.ema = dict(decay=0.9999)
    config.evals = {}
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=10 if arg.smoke else 5000, keep=1)
    if arg.smoke:
        config.task.tokenizer = dict(
            name="kl_autoencoder", latent_width=4, scale=1.0, channels=8, multipliers=(1, 2), num_blocks=1,
            attention_levels=(), middle_attention=False, norm_groups=4,
        )  # fmt: skip
        config.model.update(variant="S/2", width=32, depth=2, num_heads=2, mlp_dim=64, grid_side=2)
        config.data = dict(
            image_size=(8, 8), train=dict(name="digits", split="train"), eval=dict(name="digits", split="test"),
            transform=dict(name="supervised", crop="none", flip=False),
        )  # fmt: skip
    return config
