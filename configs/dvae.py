"""DALL-E's discrete VAE on ImageNet-1k: 256x256 pixels as 32x32 codes of 8,192.

  vit_jax train --config dvae --workdir runs/dvae
  vit_jax reconstruct --checkpoint runs/dvae photo.jpg --output pairs.png

Paper: "Zero-shot text-to-image generation" (arXiv:2102.12092), section 2.1 and appendix A.2: AdamW with (.9, .999) and
a weight decay of 1e-4; the rate from 1e-4 to 1.25e-6 over 1,200,000 updates, the temperature from 1 to 1/16 over
150,000 and the weight of the divergence from 0 to 6.6 over 5,000, each along half a cosine; an average of the
parameters of .999; batch 512, 3,000,000 updates. The steps of the weight, the batch and the number of updates are from
memory.
Expected: VQGAN's authors list an rFID of 32.0 on ImageNet's validation images for the published model, which was
trained on the paper's own images. There is no figure of one that was trained on ImageNet.
Hardware: 64 V100 of 16 GB in the paper; from memory. Time: not in the paper.

Where this differs, without a known effect:
- rate: its way down takes the whole run.
- data: ImageNet's photos instead of 250 million of the web.
- crops: those of the supervised recipes from 25% of the area on, and flips; the paper's shrink the short side less.
- precision: bfloat16, with logits, draws, pixels and parameters in float32.

Arguments: `codes`, `batch`, `seed`, `smoke` for a run of seconds on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, codes=8192, batch=512, seed=0, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 3_000_000
    config.batch_size = 16 if arg.smoke else arg.batch
    config.task = dict(name="dvae", tau_end=1 / 16, tau_steps=150_000, kl_weight=6.6, kl_steps=5_000)
    config.model = dict(name="dvae", num_codes=arg.codes)
    if arg.smoke:
        config.task.update(tau_steps=10, kl_steps=10)
        config.model.update(hidden=16, num_blocks=1, num_codes=64, code_width=16)
    else:
        config.model.dtype = "bfloat16"
    config.data = dict(
        image_size=(16, 16) if arg.smoke else (256, 256),
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.smoke else "validation"),
        transform=dict(name="supervised", flip=True, **(dict(crop="none") if arg.smoke else dict(area=(0.25, 1.0)))),
        eval_batch_size=None if arg.smoke else 256,
    )
    if not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=256)
    rate = dict(name="cosine", end=1.25e-6)
    config.optim = dict(name="adamw", learning_rate=1e-4, b1=0.9, b2=0.999, weight_decay=1e-4, schedule=rate)
    config.ema_decay = 0.999
    config.evals = dict(
        pixels=dict(name="reconstruction"), codes=dict(name="codebook", vocab_size=config.model.num_codes)
    )
    config.eval_every = None if arg.smoke else 50_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 10_000, keep=1)
    return config
