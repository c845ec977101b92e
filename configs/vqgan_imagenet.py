"""VQGAN on ImageNet-1k: 256x256 pixels as 16x16 codes of 1,024 or 16,384.

  vit_jax train --config vqgan_imagenet:vgg=vgg16.safetensors --workdir runs/vqgan
  vit_jax train --config vqgan_imagenet:codes=16384,vgg=vgg16.safetensors --workdir runs/vqgan-16384
  vit_jax reconstruct --checkpoint runs/vqgan --output pairs.png photo.jpg

Paper: "Taming transformers for high-resolution image synthesis" (arXiv:2012.09841), section 3.1; the values are those
of the authors' configs/imagenet_vqgan.yaml and of its loss: |x - y| + LPIPS + codebook + the hinge of a PatchGAN, which
starts after 250,001 steps with a weight of 0.8 times the adaptive one; Adam (0.5, 0.9) at 4.5e-6 times the batch.

Expected: FID of reconstructions of the validation images 7.94 with 1,024 codes, 4.98 with 16,384 (the authors' README).
Hardware: the authors' file has 3 images a GPU and not how many GPUs; 8 here. Time: not known. Nobody has trained it.

Where this differs, without a known effect:
- length: the authors' file names none.
- crops: an area from 60% on, resized, where the authors crop a square of the short side at random.
- discriminator: its biases start at 0.
- precision: bfloat16, with latents, look-up, losses, scores and parameters in float32.

Arguments: `codes=1024|16384`, `vgg`, a file of timm's VGG-16 for LPIPS, `seed`, `smoke` for a run of seconds on
scikit-learn's digits, without LPIPS.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.training.config import parse_arg

VARIANTS = {1024: "f16", 16384: "f16_16384"}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, codes=1024, vgg="vgg16.safetensors", seed=0, smoke=False)
    if arg.codes not in VARIANTS:
        raise UserError(f"There is no VQGAN of the paper with {arg.codes} codes", "Choose codes=1024 or codes=16384")
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="imagenet2012")
    start = 5 if arg.smoke else 250_001

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 1_000_000
    config.batch_size = 24
    config.task = dict(name="vqgan", discriminator=dict(num_layers=1 if arg.smoke else 3, after=start))
    config.model = dict(name="vqgan", variant=VARIANTS[arg.codes], legacy=True)
    if arg.smoke:
        config.task.discriminator.channels = 8
        config.model.update(
            channels=8,
            multipliers=(1, 2),
            num_blocks=1,
            attention_levels=(),
            middle_attention=False,
            latent_channels=4,
            norm_groups=4,
        )
    else:
        config.model.dtype = "bfloat16"
        config.task.perceptual = dict(name="vgg", hidden=0)
        config.init_from = dict(perceptual=f"{arg.vgg}::")
    crops = dict(crop="none") if arg.smoke else dict(crop="random", area=(0.6, 1.0))
    config.data = dict(
        image_size=(16, 16) if arg.smoke else (256, 256),
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.smoke else "validation"),
        transform=dict(name="supervised", flip=False, **crops),
        eval_batch_size=None if arg.smoke else 250,
    )
    if not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=256)
    adam = dict(name="adamw", b1=0.5, b2=0.9, weight_decay=0.0, learning_rate=4.5e-6 * config.batch_size)
    config.optim = dict(
        groups=(dict(match="discriminator/.*", **adam), dict(match=".*", **adam)),
        frozen=() if arg.smoke else ("perceptual/.*",),
    )
    config.evals = dict(pixels=dict(name="reconstruction"), codes=dict(name="codebook", vocab_size=arg.codes))
    config.eval_every = None if arg.smoke else 25_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5_000, keep=1)
    return config
