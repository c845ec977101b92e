"""Latent diffusion of ImageNet's classes at 256 pixels: the U-Net attends to the class.

  vit_jax train --config ldm_imagenet:tokenizer=VQ --workdir runs/ldm
  vit_jax sample --checkpoint runs/ldm --sampler ddim --eta 1 --steps 200 --classes 207,360 --output DIR

Paper: "High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752), section 4, and its authors'
code (github.com/CompVis/latent-diffusion, configs/latent-diffusion/cin-ldm-vq-f8.yaml): a U-Net of 394,984,196
parameters on latents of 32x32x4, as they are before the autoencoder's codes are looked up, with a class of width 512 as
the only token of its context (512,000 parameters); T 1,000 with roots of the noise evenly from 0.0015 to 0.0195, AdamW
at 1e-6 for each example of a batch.
Expected: FID 15.82 and inception score 78.82 in 200 DDIM steps with eta 1, 7.77 and 201.56 led by a classifier
(README). It takes ImageNet's statistics of the 2015 Inception to measure that. Not measured here.
Hardware and time: GPUs; of time here nothing is known.

`tokenizer` is the VQGAN `ldm_f8`: a folder of diffusers' VQModel, a file in the authors' names, or a run of
`vqgan_imagenet`. What is sampled passes its codes. `drop=0.1` trains without a class too, for guidance by one network,
as the authors' later model does.

Where this differs, without a known effect:
- batch: 384, 48 on each of 8 devices; the code says 48 for a device, and not how many.
- steps: 178,000 from memory; the code says none.
- initial values: of time's layers, which are normal here; what is zero at first is the same.
- crops: the largest square at a random place, with flips.

Arguments: `tokenizer` (a checkpoint), `drop` (share of examples without their class), `steps`, `smoke` for a tiny one
on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, tokenizer="", drop=0.0, steps=178_000, smoke=False)
    imagenet = dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else 8 * 48
    if arg.tokenizer:
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.task = dict(
        name="ddpm",
        tokenizer=dict(name="vqgan", variant="ldm_f8"),
        conditional=True,
        label_drop=arg.drop,
        schedule="scaled_linear",
        first=0.0015,
        last=0.0195,
    )
    # Heads of 32 channels.
    config.model = dict(
        name="conditional_unet",
        channels=256,
        multipliers=(1, 2, 4),
        attention_levels=(0, 1, 2),
        heads=(8, 16, 32),
        context_width=512,
    )
    config.data = dict(
        image_size=(256, 256),
        preprocess=dict(resize="short_side", resize_to=256),
        train=dict(imagenet, split="train"),
        eval=dict(imagenet, split="validation"),
        transform=dict(
            name="supervised", crop="random", sampling="largest", area=(1.0, 1.0), aspect=(1.0, 1.0), flip=True
        ),
        eval_batch_size=8 if arg.smoke else 384,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-6 * 384,
        weight_decay=0.01,
        frozen=() if arg.smoke else ("tokenizer/.*",),
        schedule=dict(name="constant"),
    )
    config.ema_decay = 0.9 if arg.smoke else 0.9999
    config.evals = {}
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 10_000, keep=1)
    if arg.smoke:
        config.task.tokenizer = dict(
            name="vqgan", num_codes=8, latent_channels=4, channels=8, multipliers=(1, 2), num_blocks=1,
            attention_levels=(), middle_attention=False, norm_groups=4,
        )  # fmt: skip
        config.model.update(
            channels=8,
            multipliers=(1, 2),
            num_blocks=1,
            attention_levels=(1,),
            heads=(2, 2),
            context_width=6,
            norm_groups=4,
        )
        config.data = dict(
            image_size=(8, 8), train=dict(name="digits", split="train"), eval=dict(name="digits", split="test"),
            transform=dict(name="supervised", crop="none", flip=False),
        )  # fmt: skip
    return config
