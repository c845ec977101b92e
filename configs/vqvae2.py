"""The VQ-VAE-2 of two levels on ImageNet-1k at 256x256 pixels: 32x32 and 64x64 codes of 512.

  vit_jax train --config vqvae2 --workdir runs/vqvae2

Paper: "Generating diverse high-fidelity images with VQ-VAE-2" (arXiv:1906.00446), appendix A: 128 channels, 64 between
the convolutions of 2 residual blocks, codes of 64 numbers that learn by moving averages of .99, commitment .25, batch
128, 2,207,444 steps (from memory, as all numbers here).
Expected: the paper prints no figure of its reconstructions at 256 pixels that could be compared.
Hardware and time: not known.

Where this differs, without a known effect:
- rate: that of the VQ-VAE, Adam with 2e-4; the paper's is not known to us.
- restarts: a code that stands for less than a thousandth of a latent a batch starts anew; the paper's does not.
- filters: the encoders halve by 4x4 convolutions, as the VQ-VAE's.
- precision: bfloat16, with latents, distances, codes and parameters in float32.

Arguments: `seed`, `smoke` for a run of seconds on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, seed=0, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="imagenet2012")
    width, side = (16, 16) if arg.smoke else (128, 256)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 2_207_444
    config.batch_size = 32 if arg.smoke else 128
    config.task = dict(name="vqvae")
    config.model = dict(
        name="vqvae2",
        width=width,
        hidden=width // 2,
        depth=2,
        factor=2 if arg.smoke else 4,
        code_width=8 if arg.smoke else 64,
        vocab_size=32 if arg.smoke else 512,
        decay=0.99,
        restart_below=0.001,
        beta=0.25,
        dtype="float32" if arg.smoke else "bfloat16",
    )
    config.data = dict(
        image_size=(side, side),
        preprocess=dict(resize="short_side", resize_to=side),
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.smoke else "validation"),
        transform=dict(name="supervised", crop="random", area=(0.4, 1.0), flip=True),
        eval_batch_size=None if arg.smoke else 256,
    )
    config.optim = dict(name="adamw", learning_rate=2e-4, weight_decay=0.0)
    coarse = (side // config.model.factor // 2) ** 2
    config.evals = dict(
        pixels=dict(name="reconstruction"),
        codes=dict(name="codebook", vocab_size=config.model.vocab_size, scales=(coarse, 4 * coarse)),
    )
    config.eval_every = None if arg.smoke else 50_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5_000, keep=1)
    return config
