"""The colours that stand for all others in small images, as iGPT's 512: its tokenizer.

  vit_jax prepare palette --config color_palette --output runs/palette
  vit_jax reconstruct --checkpoint runs/palette photos/ --output pairs.png

Paper: "Generative pretraining from pixels" (ICML 2020), section 3.2: k-means of pixels, 512 colours, so that a pixel is
one token of nine bits instead of three of eight.
Expected: the paper prints no figure. Hardware: any. Time: a minute on one CPU core, the images aside.

`prepare palette` finds the colours by k-means of scikit-learn; 'train' would do it by gradients of the same objective,
from an even palette.

Arguments: `data=imagenet|fashion`, `res` pixels, `colors`, `root=FOLDER` of the IDX files of Fashion-MNIST, `smoke` for
scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, data="imagenet", res=32, colors=512, root=FASHION_MNIST, smoke=False)
    if arg.data not in ("imagenet", "fashion"):
        raise UserError(f"There is no palette for {arg.data!r}", nearest(arg.data, ("imagenet", "fashion")))
    source = dict(name="idx", root=arg.root) if arg.data == "fashion" else dict(name="tfds", dataset="imagenet2012")
    photos = arg.data == "imagenet" and not arg.smoke

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else 1000
    config.batch_size = 64
    config.task = dict(name="vqvae")
    config.model = dict(name="color_palette", colors=arg.colors)
    config.data = dict(
        image_size=arg.res,
        train=dict(name="digits", split="train") if arg.smoke else dict(source, split="train"),
        eval=dict(name="digits", split="test") if arg.smoke else dict(source, split="validation" if photos else "test"),
        transform=dict(name="supervised", crop="random" if photos else "none", flip=photos),
        eval_batch_size=500,
    )
    if photos:
        config.data.transform.area = (0.4, 1.0)
        config.data.preprocess = dict(resize="short_side", resize_to=arg.res)
    config.optim = dict(name="adamw", learning_rate=1e-2, weight_decay=0.0)
    config.evals = dict(pixels=dict(name="reconstruction"), codes=dict(name="codebook", vocab_size=arg.colors))
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None, keep=1)
    return config
