"""MaskGIT's tokenizer on ImageNet-1k: 256x256 pixels as 16x16 codes of 1,024.

  vit_jax train --config maskgit_vqgan:judge=resnet50.safetensors --workdir runs/maskgit-vqgan
  vit_jax reconstruct --checkpoint runs/maskgit-vqgan --output pairs.png photo.jpg

Paper: "MaskGIT" (arXiv:2202.04200), which trains a VQGAN anew; the values are those of the authors' config of it: the
non-saturating loss with a weight of 0.1 from the first step on, R1 with 10, the features of a ResNet-50 with 0.1,
commitment 0.25, entropy 0.1; Adam (0, 0.99) at 1e-4 for both, batch 256, 1,000,000 steps.

Expected: FID of reconstructions 2.28 (the authors' README). Hardware and time: not in the paper. Nobody has trained it.

Where this differs, without a known effect:
- discriminator: VQGAN's PatchGAN without norms, where the authors have StyleGAN2's with blurred strides.
- eyes: all maps of the ResNet-50, each place divided by its length, where the authors compare its features.
- sizes: no attention, as theirs, but VQGAN's convolutions halve the maps, where theirs are averaged.
- average: with decay 0.999, from memory.
- precision: bfloat16, with latents, look-up, losses, scores and parameters in float32.

Arguments: `judge`, a file of a ResNet-50 in timm's names, `seed`, `smoke` for a run of seconds on scikit-learn's
digits, without a judge.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg

# Pixels of the ResNet-50 of torchvision and timm.
IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, judge="resnet50.safetensors", seed=0, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 1_000_000
    config.batch_size = 32 if arg.smoke else 256
    config.task = dict(
        name="vqgan",
        reconstruction="l2",
        perceptual_weight=0.1,
        discriminator=dict(norm="none", num_layers=1 if arg.smoke else 3),
        gan="non_saturating",
        disc_weight=0.1,
        adaptive=False,
        r1=10.0,
    )
    config.model = dict(
        name="vqgan", variant="f16", attention_levels=(), middle_attention=False, legacy=False, entropy_weight=0.1
    )
    if arg.smoke:
        config.task.discriminator.channels = 8
        config.model.update(channels=8, multipliers=(1, 2), num_blocks=1, latent_channels=4, norm_groups=4)
    else:
        config.model.dtype = "bfloat16"
        config.task.perceptual = dict(name="resnet", variant="50", num_classes=0, **IMAGENET)
        config.init_from = dict(perceptual=f"{arg.judge}::")
    crops = dict(crop="none") if arg.smoke else dict(crop="random", area=(0.6, 1.0))
    config.data = dict(
        image_size=(16, 16) if arg.smoke else (256, 256),
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.smoke else "validation"),
        transform=dict(name="supervised", flip=not arg.smoke, **crops),
        eval_batch_size=None if arg.smoke else 250,
    )
    if not arg.smoke:
        config.data.preprocess = dict(resize="short_side", resize_to=256)
    adam = dict(name="adamw", b1=0.0, b2=0.99, weight_decay=0.0, learning_rate=1e-4)
    config.optim = dict(
        groups=(dict(match="discriminator/.*", **adam), dict(match=".*", **adam)),
        frozen=() if arg.smoke else ("perceptual/.*",),
    )
    config.ema = dict(decay=0.999, match="(?!discriminator/).*")
    config.evals = dict(pixels=dict(name="reconstruction"), codes=dict(name="codebook", vocab_size=1024))
    config.eval_every = None if arg.smoke else 10_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5_000, keep=1)
    return config
