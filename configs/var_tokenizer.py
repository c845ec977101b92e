"""VAR's tokenizer: images of 256x256 pixels as ten maps of codes, from 1x1 to 16x16.

  vit_jax train --config var_tokenizer:vgg=vgg16.safetensors,images=photos --workdir runs/var-tokenizer
  vit_jax reconstruct --checkpoint runs/var-tokenizer --output pairs.png photo.jpg

Paper: "Visual autoregressive modeling" (arXiv:2404.02905), section 3.2: 4,096 codes of 32 numbers that all scales
share, four convolutions that scales share in part, trained on OpenImages with VQGAN's compound loss: pixels, LPIPS,
codebook and a discriminator with a weight. The authors' code has the model and not its training.

Expected: no figure of its reconstructions is known here. Hardware and time: not known. Nobody has trained it.

Where this differs, without a known effect:
- recipe: the authors' is not known; VQGAN's discriminator with its weights, Adam (0.5, 0.9) at 1e-4, batch 128, 250,000
  steps.
- images: of a folder, by default `open_images`.
- precision: bfloat16, with latents, look-up, losses, scores and parameters in float32.

Arguments: `images=FOLDER`, `vgg`, a file of timm's VGG-16 for LPIPS, `seed`, `smoke` for a run of seconds on
scikit-learn's digits, without LPIPS.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, images="open_images", vgg="vgg16.safetensors", seed=0, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="folder", root=arg.images, holdout=0.01)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 250_000
    config.batch_size = 32 if arg.smoke else 128
    config.task = dict(
        name="vqgan", discriminator=dict(num_layers=1 if arg.smoke else 3, after=5 if arg.smoke else 50_000)
    )
    config.model = dict(name="var_tokenizer")
    if arg.smoke:
        config.task.discriminator.channels = 8
        config.model.update(
            channels=8,
            multipliers=(1, 2),
            num_blocks=1,
            attention_levels=(),
            middle_attends=False,
            groups=4,
            vocab_size=64,
            latent_width=8,
            scales=(1, 2, 4, 8),
            phis=2,
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
    adam = dict(name="adamw", b1=0.5, b2=0.9, weight_decay=0.0, learning_rate=1e-4)
    config.optim = dict(
        groups=(dict(match="discriminator/.*", **adam), dict(match=".*", **adam)),
        frozen=() if arg.smoke else ("perceptual/.*",),
    )
    config.evals = dict(pixels=dict(name="reconstruction"))
    config.eval_every = None if arg.smoke else 25_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5_000, keep=1)
    return config
