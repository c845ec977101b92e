"""HART's tokenizer: VAR's, whose decoder learns to take the latents themselves as well as their codes.

  vit_jax train --config hart_tokenizer:init=runs/var-tokenizer,images=photos --workdir runs/hart-tokenizer
  vit_jax reconstruct --checkpoint runs/hart-tokenizer --output pairs.png photo.jpg

Paper: "HART: efficient visual generation with hybrid autoregressive transformer" (arXiv:2410.10812), section 3.1: from
VAR's tokenizer on, half of the steps with the codes, half with the latents, for one decoder. In its authors' code
(github.com/mit-han-lab/hart, configuration.py) encoder and codes are frozen then by default; so they are here with
`init`, a run or a file of VAR's tokenizer. Without it all is learned from scratch.
Expected: FID of reconstructions at 1,024 pixels on MJHQ-30K 0.30 of the latents and 2.11 of the codes (abstract); those
images are not public. `pixels` measures reconstructions of the latents, `codes` those of the codes alone.
Hardware and time: not known.

Where this differs, without a known effect:
- recipe: config `var_tokenizer`'s, VQGAN's discriminator, its start and its weights; Adam (0.5, 0.9) at 1e-4, batch
  128, 250,000 steps.
- images: of a folder, by default `open_images`, at 256 pixels.
- precision: bfloat16, with latents, look-up, losses, scores and parameters in float32.

Arguments: `init`, `images=FOLDER`, `vgg`, a file of timm's VGG-16 for LPIPS, `seed`, `smoke` for a run of seconds on
scikit-learn's digits, without LPIPS.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg

_KEPT = ("encoder", "quant_conv", "quantizer")  # as they are in VAR's tokenizer


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, init="", images="open_images", vgg="vgg16.safetensors", seed=0, smoke=False)
    source = dict(name="digits") if arg.smoke else dict(name="folder", root=arg.images, holdout=0.01)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 250_000
    config.batch_size = 32 if arg.smoke else 128
    config.task = dict(
        name="vqgan", discriminator=dict(num_layers=1 if arg.smoke else 3, after=5 if arg.smoke else 50_000)
    )
    config.model = dict(name="hart_tokenizer")
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
    if arg.init:
        subtrees = (*_KEPT, "decoder", "post_quant_conv")
        config.init_from = {**config.get("init_from", {}), **dict.fromkeys(subtrees, arg.init)}
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
        frozen=(*([] if arg.smoke else ["perceptual/.*"]), *(f"{name}/.*" for name in _KEPT if arg.init)),
    )
    config.evals = dict(
        pixels=dict(name="reconstruction"),
        codes=dict(name="reconstruction", of="discrete_reconstruction"),
    )
    config.eval_every = None if arg.smoke else 25_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5_000, keep=1)
    return config
