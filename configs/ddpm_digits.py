"""DDPM on scikit-learn's digits, 8x8 pixels with their classes: minutes of a CPU.

  vit_jax train --config ddpm_digits --workdir runs/digits
  vit_jax sample --checkpoint runs/digits --count 40 --output digits.png
  vit_jax sample --checkpoint runs/digits --sampler ddim --steps 10 --guidance 1.5 --count 40 --output ddim.png

Paper: "Denoising diffusion probabilistic models" (arXiv:2006.11239); its figures are of larger images.
Expected: digits that can be read; no figure has been measured with this recipe.
Hardware and time: minutes of two CPU cores, not measured either.

Arguments: `schedule=linear|cosine`, `seed`, `smoke` for a run of seconds.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, schedule="linear", seed=0, smoke=False)
    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 2000
    config.batch_size = 128
    # 200 steps: of the linear schedule as much noise in all as the paper's 1,000 add.
    config.task = dict(
        name="ddpm", schedule=arg.schedule, steps=200, first=5e-4, last=0.1, conditional=True, label_drop=0.1
    )
    config.model = dict(
        name="unet", channels=8 if arg.smoke else 32, multipliers=(1, 1), num_blocks=1, attention_levels=(1,),
        norm_groups=8,
    )  # fmt: skip
    config.data = dict(
        image_size=(8, 8),
        train=dict(name="digits", split="train"),
        eval=dict(name="digits", split="test"),
        transform=dict(name="supervised", crop="none", flip=False),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else 100),
    )
    config.ema_decay = 0.9 if arg.smoke else 0.99
    config.evals = dict(sheet=dict(name="samples", settings=dict(sampler="ddim", steps=10)))
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
