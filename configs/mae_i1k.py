"""MAE on ImageNet-1k without labels: ViT-B/16, L/16 or H/14.

  vit_jax train --config mae_i1k --workdir runs/mae-b16
  vit_jax train --config mae_i1k:variant=L/16,epochs=1600 --workdir runs/mae-l16
  vit_jax train --config mae_finetune:init=runs/mae-b16 --workdir runs/mae-b16-i1k
  vit_jax train --config linear_probe:init=runs/mae-b16 --workdir runs/mae-b16-probe
  vit_jax visualize --checkpoint runs/mae-b16 --output inside photo.jpg

Paper: "Masked autoencoders are scalable vision learners" (arXiv:2111.06377), appendix A.1, table 8: 75% of the patches
masked, a decoder of 8 blocks of width 512, pixels normalised patch by patch; AdamW with learning rate 1.5e-4 per 256
images, decay 0.05 and beta 0.9, 0.95, batch 4096, 40 epochs of warmup, cosine, 800 epochs, 1600 for the best results;
crops of 20% to 100% and flips. Fixed sine-cosine positions.
Expected, after 1600 epochs (800 for B and L's linear probe): fine-tuned 83.6% (B), 85.9% (L), 86.9% (H) at 224 pixels
(table 3); linear 68.0% (B), 75.8% (L), 76.6% (H), as the authors' repository lists them.
Hardware and time: 128 TPU v3 cores, for L 31 hours over 1600 epochs (section 4) and 15.4 over 800 (table 2).

`knn` and `probe` follow what the features are worth while they are learned; MAE's are worth more after fine-tuning.

Where this differs, without a known effect:
- precision: bfloat16 with norms, softmax and parameters in float32; the authors' PyTorch code has float16 with a scaled
  loss, and the paper's TPU code is not public.

Arguments: `variant`, `epochs`, `batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.models.vit import parse_variant
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, variant="B/16", epochs=800, batch=4096, smoke=False)
    parse_variant(arg.variant)
    imagenet = dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(
        name="mae",
        mask_ratio=0.75,
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        normalize_pixels=True,
    )
    config.model = dict(
        name="vit",
        variant=arg.variant,
        pooling="token",
        posemb="sincos2d_mae",
        gelu="exact",
        dtype="bfloat16",
    )
    config.data = dict(
        image_size=(224, 224),
        preprocess=dict(
            resize="short_side",
            resize_to=256,
            interpolation="bicubic",
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
        ),
        train=dict(imagenet, split="train"),
        eval=dict(imagenet, split="validation"),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="torchvision",
            area=(0.2, 1.0),
            interpolation="bicubic",
            flip=True,
        ),
        eval_batch_size=8 if arg.smoke else 1024,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1.5e-4 * arg.batch / 256,
        weight_decay=0.05,
        # The authors leave out biases and norms alone: the two tokens are decayed.
        weight_decay_multipliers=((".*/kernel", 1.0), ("encoder/cls", 1.0), ("decoder/mask_token", 1.0)),
        b2=0.95,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else dict(epochs=40)),
    )
    config.evals = dict(
        knn=dict(name="knn", train=dict(imagenet, split="train[:10%]"), k=20),
        probe=dict(name="linear_probe", train=dict(imagenet, split="train[:10%]"), every=None),
    )
    config.eval_every = 10 if arg.smoke else 6240
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
