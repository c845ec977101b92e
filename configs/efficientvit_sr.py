"""EfficientViT for super-resolution by 2, 3 or 4, at the scale of the paper.

  vit_jax train --config efficientvit_sr:data=DIV2K --workdir runs/efficientvit-sr

Paper: "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction" (arXiv:2205.14756), its table
of super-resolution by 2, PSNR and SSIM:

                         FFHQ, 512x512 to 1024x1024   BSD100, 160x240 to 320x480
  width 0.75             43.54 dB, 0.9809             32.31 dB, 0.9016
  width 1                43.58 dB, 0.9810             32.33 dB, 0.9019

The authors published neither code nor weights of it, and the paper does not describe the head and the training in full.
So the network is ours (`vit_jax/models/efficientvit_sr.py`), and the training is that of SwinIR's small network
(cszn/KAIR, options/swinir/train_swinir_sr_lightweight.json): patches of 64x64 to 128x128 from the 800 photos of DIV2K,
64 at a time, mean absolute difference, Adam at 2e-4 without weight decay, 500k steps, a moving average of 0.999.
Nobody has trained it: no figure is expected. Hardware: 1 GPU. Time: not measured.

Where this differs, without a known effect:
- network: its head, width and depth are ours.
- rate: half a cosine, where SwinIR's is halved at 250k, 400k, 450k and 475k steps.

Data: a folder with train/ANY/*.png and test/ANY/*.png. Of each test photo the middle of `size` pixels is measured.

Arguments: `data=FOLDER`, `variant` w1 or w0.75, `scale`, `size`, `batch`, `steps`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, data="DIV2K", variant="w1", scale=2, size=320, batch=64, steps=500_000, smoke=False
    )  # fmt: skip
    steps = 10 if arg.smoke else arg.steps
    source = dict(name="folder", root=arg.data)

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = arg.batch
    config.task = dict(name="super_resolution")
    config.model = dict(name="efficientvit_sr", variant=arg.variant, scale=arg.scale)
    config.data = dict(
        image_size=(64, 64),
        train=dict(source, split="train"),
        eval=dict(source, split="test"),
        fields=dict(image=dict(name="image"), high=dict(name="high_resolution", scale=arg.scale)),
        transform=dict(name="low_resolution", scale=arg.scale, turn=True),
        eval_batch_size=8,
    )
    config.optim = dict(name="adamw", learning_rate=2e-4, weight_decay=0.0, schedule=dict(name="cosine"))
    config.ema = dict(decay=0.999)
    size = arg.size // arg.scale * arg.scale
    config.evals = dict(val=dict(name="restoration", scale=arg.scale, size=(size, size)))
    config.eval_every = 5000
    config.log_every = 200
    config.checkpoint = dict(every=5000)
    return config
