"""A linear classifier on the frozen features of a checkpoint, as MAE, MoCo v3 and SimCLR train theirs on ImageNet-1k.

  vit_jax train --config linear_probe:init=runs/mae-b16 --workdir runs/mae-b16-probe
  vit_jax train --config linear_probe:init=runs/moco-s16,method=moco_v3 --workdir runs/moco-s16-probe
  vit_jax train --config linear_probe:init=runs/simclr-50,method=simclr --workdir runs/simclr-50-probe

Papers: MAE (arXiv:2111.06377, section A.1, table 10), MoCo v3 (arXiv:2104.02057, with the authors' command) and SimCLR
(arXiv:2002.05709, section B.6). All: momentum 0.9, cosine, 90 epochs, no weight decay, random crops of 8% to 100%
and flips, nothing else; the features are those that the checkpoint pools.

             optimizer            learning rate per 256   batch   warmup   before the head
  mae        LARS                 0.1                     16384   10       batch norm without scale and bias
  moco_v3    SGD                  3, a ResNet 0.1         1024    0        nothing
  simclr     SGD with Nesterov    0.1                     4096    0        nothing

Expected: MAE B/16 68.0%, L/16 75.8%, H/14 76.6% (for L and H 50 epochs are enough, say the authors); MoCo v3 S/16
73.2%, B/16 76.7%; SimCLR ResNet-50 69.3%. Hardware and time: MAE's B/16 took the authors 2.3 hours on 32 V100s.

The trunk is the checkpoint's, in evaluation mode throughout, and what the step computes of it is the forward pass
alone. `sgd_probe` and `linear_probe` among the evaluators do the same on features of whole images, computed once, in a
fraction of the time and without the crops.

Where this differs, without a known effect:
- momentum: in LARS the learning rate enters the momentum, as in SimCLR; in MAE's code it comes after it, which is the
  same while the rate does not change.
- head: SimCLR's starts with a standard deviation of 0.01; the authors' command has it start at zero.
- rate: MoCo v3's falls with every step, in the authors' code with every epoch.
- evaluation pixels: as the checkpoint says.

Arguments: `init=PATH` (must be given), `method` whose settings are used, `pooling` ("token", "mean"; by default the
checkpoint's), `data=FOLDER` with the splits train and test instead of ImageNet, `epochs`, `batch` and `rate`, the
learning rate per 256 images (0: the method's; a batch of at most 256 with `data`), `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

# Optimizer, learning rate per 256 images for a ViT and for another trunk, batch, epochs of warmup, norm of features.
METHODS = {
    "mae": (dict(name="lars", weight_decay=0.0), 0.1, 0.1, 16384, 10, "batch"),
    "moco_v3": (dict(name="sgd"), 3.0, 0.1, 1024, 0, "none"),
    "simclr": (dict(name="sgd", nesterov=True), 0.1, 0.1, 4096, 0, "none"),
}
# How each draws and resizes its crops: BYOL's and Pillow's, torchvision's and Pillow's, TensorFlow's.
CROPS = {
    "mae": dict(sampling="byol", interpolation="bicubic"),
    "moco_v3": dict(sampling="torchvision", interpolation="bilinear"),
    "simclr": dict(sampling="inception", interpolation="bicubic", antialias=False),
}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, init="", method="mae", pooling="", data="", epochs=90, batch=0, rate=0.0, smoke=False
    )  # fmt: skip
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config linear_probe:init=PATH")
    if arg.method not in METHODS:
        raise UserError(f"Unknown method {arg.method!r}", nearest(arg.method, METHODS))
    trunk, data = starting_point(arg.init)
    if arg.pooling:
        trunk = dict(trunk, pooling=arg.pooling)
    optim, of_vit, of_other, batch, warmup, norm = METHODS[arg.method]
    rate = arg.rate or (of_vit if trunk["name"] == "vit" else of_other)
    # ImageNet's batches would be many copies of a folder's images.
    batch = arg.batch or (min(batch, 256) if arg.data else batch)
    source = dict(name="folder", root=arg.data) if arg.data else dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else batch
    config.init_from = arg.init
    config.task = dict(name="classify")
    config.model = dict(name="probed", norm=norm, trunk=trunk)
    config.data = dict(
        **data,
        train=dict(source, split="train"),
        eval=dict(source, split="test" if arg.data else "validation"),
        transform=dict(name="supervised", crop="random", area=(0.08, 1.0), flip=True, **CROPS[arg.method]),
    )
    config.optim = dict(
        optim,
        learning_rate=rate * batch / 256,
        momentum=0.9,
        frozen=("(?!head/).*",),
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else dict(epochs=warmup) if warmup else 0),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = 10 if arg.smoke else dict(epochs=10)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else dict(epochs=10) if arg.data else 1000, keep=1)
    return config
