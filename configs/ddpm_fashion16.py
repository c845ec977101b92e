"""Diffusion of garments of 16x16 pixels, in the latents of an autoencoder or in pixels: minutes of a CPU each.

  vit_jax train --config fashion16:model=kl --workdir runs/kl
  vit_jax train --config ddpm_fashion16:tokenizer=runs/kl --workdir runs/latent
  vit_jax train --config ddpm_fashion16:space=pixels --workdir runs/pixels
  vit_jax sample --checkpoint runs/latent --sampler ddim --steps 25 --guidance 1.5 --count 40 --output garments.png

Paper: none; in small latent diffusion, "High-resolution image synthesis with latent diffusion models"
(arXiv:2112.10752, section 3), beside DDPM (arXiv:2006.11239) of the same images. Data: Fashion-MNIST, reduced to 16x16
pixels by areas; latents are 8x8 times 4 numbers.
Expected: the table that `benchmarks/diffusion.py` makes; no figure has been measured with this recipe yet.
Hardware: 2 CPU cores. Time: meant for at most 10 minutes each, not measured either.

Arguments: `space=latents|pixels`, `tokenizer=RUN` of a continuous autoencoder, `steps`, `seed`, `root=FOLDER` of the
IDX files, `smoke` for a run of a few seconds on scikit-learn's digits, which need no package.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.source import open_source
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

SIZE = 16
STEPS = {"latents": 3000, "pixels": 1500}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, space="latents", tokenizer="", steps=0, seed=0, root=FASHION_MNIST, smoke=False)
    if arg.space not in STEPS:
        raise UserError(f"There is no space {arg.space!r} here", nearest(arg.space, STEPS))
    steps = arg.steps or (4 if arg.smoke else STEPS[arg.space])
    latent = arg.space == "latents"
    data = dict(name="digits", per_class=8) if arg.smoke else dict(name="idx", root=arg.root)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 8 if arg.smoke else 128
    config.task = dict(name="ddpm", steps=1000, conditional=True, label_drop=0.1)
    config.model = dict(
        name="unet", channels=8 if arg.smoke else 32, multipliers=(1, 1) if latent else (1, 1, 1), num_blocks=1,
        attention_levels=(0, 1) if latent else (1, 2), norm_groups=8,
    )  # fmt: skip
    config.data = dict(
        image_size=(SIZE, SIZE),
        train=dict(data, split="train"),
        eval=dict(data, split="test"),
        # The same view each time, so that the latents of an image are computed once.
        transform=dict(name="supervised", crop="none", flip=False),
        eval_batch_size=None if arg.smoke else 250,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        b2=0.99,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    if latent:
        tokenizer = dict(name="vae", width=8 if arg.smoke else 64, depth=1, factor=2, latent_width=4, variance=0.01)
        if arg.tokenizer:
            stored = open_source(arg.tokenizer).metadata["model"]
            tokenizer = dict(name=stored["name"], **stored["kwargs"])
            config.init_from = dict(tokenizer=arg.tokenizer)
        config.task.tokenizer = tokenizer
        config.optim.frozen = ("tokenizer/.*",)
        config.precompute = dict(output="latents")
    config.ema_decay = 0.9 if arg.smoke else 0.995
    config.evals = dict(sheet=dict(name="samples", settings=dict(sampler="ddim", steps=2 if arg.smoke else 25)))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else max(1, steps // 4), keep=1)
    return config
