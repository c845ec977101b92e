"""iDDPM on ImageNet at 64 pixels, without classes: a cosine schedule of 4,000 steps and variances that are learned.

  vit_jax train --config iddpm_imagenet64 --workdir runs/iddpm
  vit_jax sample --checkpoint runs/iddpm --steps 250 --spacing linspace --count 64 --output grid.png

Paper: "Improved denoising diffusion probabilistic models" (arXiv:2102.09672), sections 3 and 4, and its authors' code
(github.com/openai/improved-diffusion, README and script_util.py): a U-Net of 128 channels, 3 blocks a level,
multipliers 1, 2, 3 and 4, attention at 16 and 8 pixels, scale and shift of the time; the hybrid loss; Adam at 1e-4,
batches of 128, 1.5 million steps, an average with 0.9999.
Expected: the paper's FID and bits a dimension are in its tables 1 and 2; nothing was measured here.
Hardware and time: of time here nothing is known.

Where this differs, without a known effect:
- heads: 128 wide, so three at 16 pixels and four at 8; theirs are four at both.
- time: 0 to 3,999 as it is; their code multiplies it by 1,000 over the steps.
- crops: the largest square at a random place; theirs is the centre.
- pixels: averaged over areas; theirs are halved so and then bicubic.

Arguments: `smoke` for a run of seconds on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="imagenet2012")
    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else 1_500_000
    config.batch_size = 32 if arg.smoke else 128
    config.task = dict(
        name="ddpm", schedule="cosine", steps=40 if arg.smoke else 4000, variance="learned_range", bound_weight=0.001
    )
    config.model = dict(
        name="unet", channels=128, multipliers=(1, 2, 3, 4), num_blocks=3, attention_levels=(2, 3), head_width=128,
        time="adm", modulates=True, symmetric=True, epsilon=1e-5,
    )  # fmt: skip
    crops = dict(crop="none", flip=False)
    if arg.smoke:
        config.model.update(
            channels=8, multipliers=(1, 2), num_blocks=1, attention_levels=(1,), head_width=8, norm_groups=4
        )
    else:
        crops = dict(crop="random", sampling="largest", area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False)
    config.data = dict(
        image_size=(8, 8) if arg.smoke else (64, 64),
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.smoke else "validation"),
        transform=dict(name="supervised", **crops),
        eval_batch_size=None if arg.smoke else 256,
    )
    if not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=64)
    config.optim = dict(name="adamw", learning_rate=1e-4, weight_decay=0.0, schedule=dict(name="constant"))
    config.ema_decay = 0.9 if arg.smoke else 0.9999
    config.evals = dict(sheet=dict(name="samples", settings=dict(sampler="ddim", steps=10 if arg.smoke else 50)))
    config.eval_every = None if arg.smoke else 50_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 10_000, keep=1)
    return config
