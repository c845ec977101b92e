"""Gated PixelCNN on CIFAR-10, every colour of every pixel as one of 256 levels; or on Fashion-MNIST in minutes.

  vit_jax train --config pixelcnn_cifar10 --workdir runs/pixelcnn
  vit_jax train --config pixelcnn_cifar10:kind=diagonal --workdir runs/pixelrnn
  vit_jax train --config pixelcnn_cifar10:data=fashion --workdir runs/pixelcnn16
  vit_jax sample --checkpoint runs/pixelcnn --count 64 --output grid.png

Paper: "Conditional image generation with PixelCNN decoders" (arXiv:1606.05328), table 1, and "Pixel recurrent neural
networks" (arXiv:1601.06759), table 5: a 7x7 convolution by mask A, then layers of 128 features, 15 of a PixelCNN and 12
of a PixelRNN (from memory, as the figures).
Expected: bits per value of the test set: gated 3.03, plain 3.14, row LSTM 3.07, diagonal BiLSTM 3.00. Of
`data=fashion` 0.80 (0.552 nats) after 1,500 steps, some four minutes of one CPU core.
Hardware and time: 60 hours on 32 GPUs for ImageNet (from memory); of CIFAR-10 the papers say nothing.

Where this differs, without a known effect:
- optimizer: AdamW without decay at 5e-4 with a cosine; the papers have RMSProp.
- layers: the gated one has 15, the first of 7x7 and the others of 3x3, with 128 features; the paper names those of
  ImageNet alone.
- length: 200 epochs of batches of 128; the papers name none.

Arguments: `kind=gated|plain|row|diagonal`, `data=cifar10|fashion` (16x16 grey pixels of 8 levels, with classes),
`root=FOLDER` of the IDX files of Fashion-MNIST, `seed`, `smoke` for a run of seconds on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

KINDS = {
    "gated": dict(name="pixelcnn", kind="gated"),
    "plain": dict(name="pixelcnn", kind="plain"),
    "row": dict(name="pixelrnn", direction="row"),
    "diagonal": dict(name="pixelrnn", direction="diagonal"),
}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, kind="gated", data="cifar10", root=FASHION_MNIST, seed=0, smoke=False)
    if arg.kind not in KINDS:
        raise UserError(f"There is no PixelCNN or PixelRNN named {arg.kind!r}", nearest(arg.kind, KINDS))
    if arg.data not in ("cifar10", "fashion"):
        raise UserError(f"There is no recipe of pixels for {arg.data!r}", nearest(arg.data, ("cifar10", "fashion")))
    small, recurrent = arg.smoke or arg.data == "fashion", "direction" in KINDS[arg.kind]
    source = dict(name="tfds", dataset="cifar10")
    if small:
        source = dict(name="digits") if arg.smoke else dict(name="idx", root=arg.root)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 20 if arg.smoke else 1500 if small else dict(epochs=200)
    config.batch_size = 32 if small else 128
    config.task = dict(name="pixelcnn", conditional=small, label_drop=0.1 if small else 0.0)
    config.model = dict(KINDS[arg.kind], first_size=7)
    if small:
        config.model.update(levels=8, colours=1, width=32, depth=2 if arg.smoke else 4)
    else:
        # A plain layer and one of LSTMs have half of the width between their 1x1 convolutions.
        config.model.update(
            levels=256, colours=3, width=128 if arg.kind == "gated" else 256, depth=12 if recurrent else 15
        )
    side = 8 if arg.smoke else 16 if small else 32
    config.data = dict(
        image_size=(side, side),
        train=dict(source, split="train"),
        eval=dict(source, split="test"),
        transform=dict(name="supervised", crop="none", flip=not arg.smoke),
        eval_batch_size=None if arg.smoke else 500,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=3e-3 if small else 5e-4,
        weight_decay=0.0,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else 100),
    )
    config.evals = dict(bits=dict(name="perplexity"))
    config.eval_every = None if small else 7800
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
