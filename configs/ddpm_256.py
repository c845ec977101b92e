"""DDPM at 256 pixels: LSUN, or any folder of photos.

  vit_jax train --config ddpm_256:images=lsun/church --workdir runs/church
  vit_jax sample --checkpoint runs/church --count 16 --output grid.png

Paper: "Denoising diffusion probabilistic models" (arXiv:2006.11239), section 4 and appendix B, and its authors' code
(github.com/hojonathanho/diffusion, scripts/run_lsun.py): a U-Net of 113,673,219 parameters, T 1,000, noise from 1e-4 to
0.02, Adam at 2e-5 after 5,000 steps of warmup, batches of 64, clipping at 1, flips, no dropout.
Expected: the paper's FID of LSUN is in its table 3; nothing was measured here.
Hardware and time: TPUs; of time here nothing is known.

Where this differs, without a known effect:
- initial values: weights are drawn as PyTorch draws them; what is zero at first is the same.
- steps: 1.2 million; the code says none. The paper's, which differ with the data set, are not at hand.

Arguments: `images`, a folder; `steps`; `smoke` for a run of seconds on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, images="lsun/church", steps=1_200_000, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="folder", root=arg.images, holdout=0.01)
    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 32 if arg.smoke else 64
    config.task = dict(name="ddpm", variance="large")
    # Attention is at 16 pixels, where 256 was halved four times.
    config.model = dict(name="unet", multipliers=(1, 1, 2, 2, 4, 4), attention_levels=(4,))
    if arg.smoke:
        config.model.update(channels=8, multipliers=(1, 2), num_blocks=1, attention_levels=(1,), norm_groups=4)
    config.data = dict(
        image_size=(8, 8) if arg.smoke else (256, 256),
        train=dict(source, split="train"),
        eval=dict(source, split="test"),
        transform=dict(name="supervised", crop="none", flip=not arg.smoke),
        eval_batch_size=None if arg.smoke else 64,
    )
    if not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=256)
    config.optim = dict(
        name="adamw",
        learning_rate=2e-5,
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
