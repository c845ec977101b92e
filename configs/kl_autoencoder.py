"""The autoencoders of latent diffusion: images of 256x256 pixels as maps of Gaussians, of 64x64 down to 8x8 places.

  vit_jax train --config kl_autoencoder:f=8,vgg=vgg16.safetensors,images=photos --workdir runs/kl-f8
  vit_jax reconstruct --checkpoint runs/kl-f8 --output pairs.png photo.jpg
  vit_jax encode --checkpoint runs/kl-f8 --what moments --mirrored --output latents/

Paper: "High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752), section 3.1, appendix G and
table 8; the values are those of the authors' configs/autoencoder: |x - y| + LPIPS, summed over an image's numbers, the
divergence with 1e-6, and from step 50,001 on a PatchGAN's hinge with 0.5 times the adaptive weight; Adam (0.5, 0.9) at
4.5e-6 times the batch.

Expected, of the authors' table, on images of ImageNet's validation set after so many steps:

| f | channels | steps | FID of reconstructions | PSNR in dB |
|---|---|---|---|---|
| 4 | 3 | 176,991 | 0.27 | 27.53 |
| 8 | 4 | 246,803 | 0.90 | 24.19 |
| 16 | 16 | 442,998 | 0.87 | 24.08 |
| 32 | 64 | 406,763 | 2.04 | 22.27 |

Hardware: the authors' files have 12 images a GPU and not how many GPUs; 8 here. Time: not known. Nobody has trained it.

Where this differs, without a known effect:
- images: of a folder, by default `open_images`, where the authors' are OpenImages' crops.
- error: its scale stays 1, as it does in the authors' code, whose optimizer leaves it out.
- discriminator: its biases start at 0.
- precision: bfloat16, with moments, losses, scores and parameters in float32.

The latents' scale, by which others generate them, is measured as training goes on, and is a part of the checkpoint.

Arguments: `f=4|8|16|32`, `images=FOLDER`, `vgg`, a file of timm's VGG-16 for LPIPS, `seed`, `smoke` for a run of
seconds on scikit-learn's digits, without LPIPS.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.training.config import parse_arg

STEPS = {4: 176_991, 8: 246_803, 16: 442_998, 32: 406_763}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, f=8, images="open_images", vgg="vgg16.safetensors", seed=0, smoke=False)
    if arg.f not in STEPS:
        raise UserError(
            f"There is no autoencoder of the paper with f={arg.f}", f"Choose from {', '.join(map(str, STEPS))}"
        )
    source = dict(name="digits") if arg.smoke else dict(name="folder", root=arg.images, holdout=0.01)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else STEPS[arg.f]
    config.batch_size = 32 if arg.smoke else 96
    config.task = dict(
        name="vqgan",
        reduction="sum",
        kl_weight=1e-6,
        discriminator=dict(num_layers=1 if arg.smoke else 3, after=5 if arg.smoke else 50_001),
        disc_weight=0.5,
    )
    config.model = dict(name="kl_autoencoder", variant=f"f{arg.f}", scale="measured")
    if arg.smoke:
        config.task.discriminator.channels = 8
        config.model.update(
            channels=8, multipliers=(1, 2), num_blocks=1, attention_levels=(), middle_attention=False, norm_groups=4
        )
    else:
        config.model.dtype = "bfloat16"
        config.task.perceptual = dict(name="vgg", hidden=0)
        config.init_from = dict(perceptual=f"{arg.vgg}::")
    crops = dict(crop="none") if arg.smoke else dict(crop="random", area=(0.25, 1.0))
    config.data = dict(
        image_size=(16, 16) if arg.smoke else (256, 256),
        train=dict(source, split="train"),
        eval=dict(source, split="test"),
        transform=dict(name="supervised", flip=not arg.smoke, **crops),
        eval_batch_size=None if arg.smoke else 250,
    )
    if not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=256)
    adam = dict(name="adamw", b1=0.5, b2=0.9, weight_decay=0.0, learning_rate=4.5e-6 * config.batch_size)
    config.optim = dict(
        groups=(dict(match="discriminator/.*", **adam), dict(match=".*", **adam)),
        frozen=() if arg.smoke else ("perceptual/.*",),
    )
    config.evals = dict(pixels=dict(name="reconstruction"))
    config.eval_every = None if arg.smoke else 25_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5_000, keep=1)
    return config
