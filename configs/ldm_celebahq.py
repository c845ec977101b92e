"""Latent diffusion of CelebA-HQ at 256 pixels, or of any folder of photos.

  vit_jax train --config ldm_celebahq:images=celebahq,tokenizer=VQ --workdir runs/faces
  vit_jax sample --checkpoint runs/faces --sampler ddim --steps 200 --count 16 --output grid.png

Paper: "High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752), section 4, and its authors'
code (github.com/CompVis/latent-diffusion, configs/latent-diffusion/celebahq-ldm-vq-4.yaml, and ffhq-ldm-vq-4.yaml of
the same network): a U-Net of 274,056,163 parameters on latents of 64x64x3, as they are before the autoencoder's codes
are looked up; T 1,000 with roots of the noise evenly from 0.0015 to 0.0195, AdamW at 2e-6 times the batch of 48.
Expected: FID 5.11 in 200 DDIM steps (README). It takes the statistics of the 2015 Inception to measure that. Not
measured here.
Hardware and time: GPUs; of time here nothing is known.

`tokenizer` is the VQGAN `ldm_f4`: a folder of diffusers' VQModel, a file in the authors' names, or a run of
`vqgan_imagenet`. What is sampled passes its codes.

Where this differs, without a known effect:
- initial values: of time's layers, which are normal here; what is zero at first is the same.
- steps: 410,000, the paper's table of the appendix from memory; the code says none.

Arguments: `images`, a folder; `tokenizer`, a checkpoint; `steps`; `smoke` for a run of seconds on scikit-learn's
digits.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, images="celebahq", tokenizer="", steps=410_000, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="folder", root=arg.images, holdout=0.1)
    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else 48
    if arg.tokenizer:
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.task = dict(
        name="ddpm",
        tokenizer=dict(name="vqgan", variant="ldm_f4"),
        schedule="scaled_linear",
        first=0.0015,
        last=0.0195,
    )
    # Attention where 256 pixels have become 32, 16 and 8.
    config.model = dict(
        name="unet",
        channels=224,
        multipliers=(1, 2, 3, 4),
        attention_levels=(1, 2, 3),
        head_width=32,
        time="adm",
        symmetric=True,
        epsilon=1e-5,
    )
    config.data = dict(
        image_size=(8, 8) if arg.smoke else (256, 256),
        train=dict(source, split="train"),
        eval=dict(source, split="test"),
        transform=dict(name="supervised", crop="none", flip=False),
        eval_batch_size=8 if arg.smoke else 48,
    )
    if not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=256)
    config.optim = dict(
        name="adamw",
        learning_rate=2e-6 * 48,
        weight_decay=0.01,
        frozen=() if arg.smoke else ("tokenizer/.*",),
        schedule=dict(name="constant"),
    )
    config.ema_decay = 0.9 if arg.smoke else 0.9999
    config.evals = dict(sheet=dict(name="samples", settings=dict(sampler="ddim", steps=4 if arg.smoke else 200)))
    config.eval_every = None if arg.smoke else 50_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 10_000, keep=1)
    if arg.smoke:
        config.task.tokenizer = dict(
            name="vqgan", num_codes=8, latent_channels=3, channels=8, multipliers=(1, 2), num_blocks=1,
            attention_levels=(), middle_attention=False, norm_groups=4,
        )  # fmt: skip
        config.model.update(
            channels=8, multipliers=(1, 2), num_blocks=1, attention_levels=(1,), head_width=4, norm_groups=4
        )
    return config
