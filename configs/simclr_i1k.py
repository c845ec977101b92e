"""SimCLR on ImageNet-1k without labels: ResNet-50 as in the paper, or a ViT.

  vit_jax train --config simclr_i1k --workdir runs/simclr
  vit_jax train --config simclr_i1k:version=2,epochs=800 --workdir runs/simclr-v2
  vit_jax train --config finetune:init=runs/simclr,data=photos --workdir runs/photos

Paper: "A simple framework for contrastive learning of visual representations" (arXiv:2002.05709), sections 2 and 6:
batch 4096, LARS with learning rate 0.3 per 256 images (4.8), decay 1e-6, 10 epochs of warmup, cosine, temperature 0.1,
head 2048-128; views by random crops of 8% to 100%, flips, colour distortion of strength 1 and blur (appendix A).
Version 2, "Big self-supervised models are strong semi-supervised learners" (arXiv:2006.10029): a head of three layers
of which the first stays, learning rate 0.1 sqrt(batch) (6.4), decay 1e-4, warmup over 5% of the epochs (section 3).
Both as the authors' code has them: pixels from 0 to 1, and the loss summed over the two views of an image.
Expected: accuracy of a linear classifier on the frozen features (table 6 of the first paper, 1000 epochs): 69.3%, with
`width=128` 74.2% and with `width=256` 76.5%; the authors' code names 64.5% after 100 epochs. Version 2: 71.7% after 800
epochs. A ViT with SimCLR has the optimizer of MoCo v3; no figure is promised.
Hardware and time: 100 epochs of ResNet-50 in 1.5 hours on 128 TPU v3 cores, by the authors.

`probe/accuracy` at the end stands for the linear classifier: it is trained on features of whole images, without the
paper's random crops. `views` measures alignment and uniformity, `knn` the nearest neighbours.

Where this differs:
- memory: version 2 has another 64k negatives, outputs of a network that is a moving average with decay 0.999. The paper
  puts their worth at about 1 point; the authors' code does not have them either.
- colours: torchvision's operations, in whole levels of grey. TensorFlow's contrast is about the mean of each channel,
  torchvision's about that of the grey image. Effect unknown.
- brightness: it is multiplied, as by default in the authors' code; version 1 of the paper added to it. Effect unknown.
- crops: TensorFlow 2's cubic, with pixel centres at half integers; the code for TensorFlow 1 has them at whole ones and
  a sharper cubic. Effect unknown.
- blur: one standard deviation for the global batch and each view, in the code for each core's part of it. Effect
  unknown.
- evaluation pixels: 256 on the short side and the centre, by areas; theirs are the centre 87.5% by the same cubic.
  Effect unknown.

Arguments: `model` (a ResNet such as 50 or 18, or a ViT such as S/16), `width` of a ResNet, `version` 1 or 2, `epochs`,
`batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.models import resnet
from vit_jax.models.vit import parse_variant
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, model="50", width=64, version=1, epochs=100, batch=4096, smoke=False)
    if arg.version not in (1, 2):
        raise UserError(f"Unknown version {arg.version} of SimCLR", "Give 1 or 2")
    is_vit = "/" in arg.model
    if is_vit:
        parse_variant(arg.model)
        model = dict(name="vit", variant=arg.model, pooling="token", posemb="sincos2d_moco", gelu="exact")
    elif arg.model in resnet.VARIANTS:
        model = dict(name="resnet", variant=arg.model, width=arg.width)
    else:
        raise UserError(f"Unknown model {arg.model!r}", nearest(arg.model, (*resnet.VARIANTS, "S/16", "B/16")))
    imagenet = dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(
        name="simclr",
        temperature=0.1,
        head_layers=arg.version + 1,
        representation=arg.version - 1,
        loss_per="image",
    )
    config.model = dict(model, dtype="bfloat16")
    config.data = dict(
        image_size=(224, 224),
        # Pixels from 0 to 1.
        preprocess=dict(resize="short_side", resize_to=256, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)),
        train=dict(imagenet, split="train"),
        eval=dict(imagenet, split="validation"),
        transform=dict(
            name="two_views",
            sampling="inception",
            area=(0.08, 1.0),
            interpolation="bicubic",
            antialias=False,
            strength=1.0,
            blur_sigma_per="batch",
        ),
        eval_batch_size=8 if arg.smoke else 1024,
    )
    if is_vit:
        optim, warmup = dict(name="adamw", learning_rate=1.5e-4 * arg.batch / 256, weight_decay=0.1), 40
    elif arg.version == 1:
        optim, warmup = dict(name="lars", learning_rate=0.3 * arg.batch / 256, weight_decay=1e-6), 10
    else:
        optim, warmup = dict(name="lars", learning_rate=0.1 * arg.batch**0.5, weight_decay=1e-4), 0.05 * arg.epochs
    warmup = 5 if arg.smoke else dict(epochs=warmup)
    config.optim = dict(optim, schedule=dict(name="cosine", warmup_steps=warmup))
    neighbours = dict(imagenet, split="train[:10%]")
    config.evals = dict(
        knn=dict(name="knn", train=neighbours, k=20),
        views=dict(name="alignment_uniformity", transform=dict(name="view")),
        probe=dict(name="sgd_probe", train=dict(imagenet, split="train"), batch_size=4096, epochs=90, every=None),
    )
    config.eval_every = 10 if arg.smoke else 6240
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
