"""The VQ-VAE on ImageNet-1k at 128x128 pixels, 32x32 codes of 512; or on Fashion-MNIST in minutes.

  vit_jax train --config vqvae --workdir runs/vqvae
  vit_jax train --config vqvae:data=fashion --workdir runs/vqvae16
  vit_jax predict --checkpoint runs/vqvae photo.jpg

Paper: "Neural discrete representation learning" (arXiv:1711.00937), section 4.1 and 4.2: two 4x4 convolutions of stride
2, two residual blocks, 256 channels; commitment .25; Adam with learning rate 2e-4, batch 128, 250,000 steps.
Expected: the paper shows reconstructions (figure 2) and prints no figure of them. `data=fashion`: see below.
Hardware and time: not in the paper.

`data=fashion` is a VQ-VAE of 98,707 parameters whose codes learn by moving averages: 16x16 pixels, 8x8 codes of 128. In
600 steps of 64, 43 seconds of one CPU core, reconstructions of 1,000 test images have a PSNR of 27.5 dB, all codes are
in use, and their perplexity is 74.

Where this differs, without a known effect:
- width: codes have 64 numbers, as in the authors' later code.
- crops: those of the supervised recipes from 40% of the area on, and flips; the paper names none.
- precision: bfloat16, with latents, distances, codes and parameters in float32.

Arguments: `data=imagenet|fashion`, `average=yes` for codes that learn by moving averages, `codes` a place (of more than
one, a residual quantiser), `root=FOLDER` of the IDX files of Fashion-MNIST, `seed`, `smoke` for a run of seconds on
scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, data="imagenet", average="no", codes=1, root=FASHION_MNIST, seed=0, smoke=False)
    if arg.data not in ("imagenet", "fashion"):
        raise UserError(f"There is no recipe of vqvae for {arg.data!r}", nearest(arg.data, ("imagenet", "fashion")))
    small = arg.smoke or arg.data == "fashion"
    source = dict(name="tfds", dataset="imagenet2012")
    if small:
        source = dict(name="digits") if arg.smoke else dict(name="idx", root=arg.root)
    averages = dict(decay=0.99, restart_below=1.0) if small or arg.average != "no" else {}

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 600 if small else 250_000
    config.batch_size = 64 if small else 128
    config.task = dict(name="vqvae", variance=0.1 if small else 1.0)
    config.model = dict(name="vqvae", codes_per_place=arg.codes, beta=0.25, **averages)
    if small:
        config.model.update(width=64, depth=1, factor=2, latent_width=16, vocab_size=128)
    else:
        config.model.update(width=256, depth=2, factor=4, latent_width=64, vocab_size=512, dtype="bfloat16")
    crops = dict(crop="none") if small else dict(crop="random", area=(0.4, 1.0))
    config.data = dict(
        image_size=(16, 16) if small else (128, 128),
        train=dict(source, split="train"),
        eval=dict(source, split="test" if small else "validation"),
        transform=dict(name="supervised", flip=True, **crops),
        eval_batch_size=None if arg.smoke else 500,
    )
    if not small:
        config.data.preprocess = dict(resize="short_side", resize_to=128)
    config.optim = dict(name="adamw", learning_rate=2e-3 if small else 2e-4, weight_decay=0.0)
    if small:
        config.optim.update(b2=0.99, schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else 50))
    config.evals = dict(
        pixels=dict(name="reconstruction"), codes=dict(name="codebook", vocab_size=config.model.vocab_size)
    )
    if arg.codes > 1:
        places = (config.data.image_size[0] // config.model.factor) ** 2
        config.evals.codes.scales = (places,) * arg.codes
    config.eval_every = None if small else 25_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if small else 5_000, keep=1)
    return config
