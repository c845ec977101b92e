"""DDPM on CIFAR-10.

  vit_jax train --config ddpm_cifar10 --workdir runs/ddpm
  vit_jax sample --checkpoint runs/ddpm --count 64 --output grid.png
  vit_jax sample --checkpoint runs/ddpm --sampler ddim --steps 50 --count 64 --output ddim.png

Paper: "Denoising diffusion probabilistic models" (arXiv:2006.11239), table 1 and appendix B: a U-Net of 35.7 M
parameters, T 1,000, noise from 1e-4 to 0.02, fixed variances, Adam at 2e-4, batches of 128, 800,000 steps, dropout 0.1.
Expected: FID 3.17 against the training set. Not measured here.
Hardware and time: a TPU v3-8 in the paper (from memory); of time here nothing is known.

Where this differs, without a known effect:
- initial values: weights are drawn as PyTorch draws them; what is zero at first is the same.

Arguments: `smoke` for a run of seconds on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="cifar10")
    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else 800_000
    config.batch_size = 32 if arg.smoke else 128
    config.task = dict(name="ddpm", variance="large")
    config.model = dict(name="unet", dropout_rate=0.1)
    if arg.smoke:
        config.model.update(channels=8, multipliers=(1, 2), num_blocks=1, norm_groups=4)
    side = 8 if arg.smoke else 32
    config.data = dict(
        image_size=(side, side),
        train=dict(source, split="train"),
        eval=dict(source, split="test"),
        transform=dict(name="supervised", crop="none", flip=not arg.smoke),
        eval_batch_size=None if arg.smoke else 256,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-4,
        weight_decay=0.0,
        clip_norm=1.0,
        schedule=dict(name="constant", warmup_steps=5 if arg.smoke else 5000),
    )
    config.ema_decay = 0.9 if arg.smoke else 0.9999
    config.evals = dict(sheet=dict(name="samples", settings=dict(sampler="ddim", steps=10 if arg.smoke else 50)))
    config.eval_every = None if arg.smoke else 50_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 10_000, keep=1)
    return config
