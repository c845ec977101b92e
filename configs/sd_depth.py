"""Stable Diffusion 2 that follows how far away things are: the U-Net sees a map of depth beside the latents.

  vit_jax train --config sd_depth:init=stable-diffusion-2-base,data=photos.jsonl --workdir runs/depth
  vit_jax sample --checkpoint runs/depth --image room.jpg --depth far.png --prompt "a cave" --output cave.png

Paper: "High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752); recipe: the model card of
stable-diffusion-2-depth, from memory: on from 2-base for 200,000 steps at 512 pixels, with the depth that MiDaS sees as
a fifth channel; the rest as sd_v1. The U-Net has 865,913,604 parameters, and predicts the noise.
Expected: no figure of the card is repeated here.
Hardware and time: not said for these steps alone; accelerators by the hundred.

Where this differs, without a known effect:
- data: theirs were subsets of LAION-5B, with depth made on the way; here it comes from files.
- first convolution: fresh, theirs went on from that of four channels.
- precision: bfloat16 with norms, softmax and parameters in float32.

Arguments: `init` a published pipeline of Stable Diffusion 2, `data` a manifest with columns path, text, depth (grey
PNGs of 8 or 16 bits) and label, which is not read, `size`, `steps`, `batch`, `smoke`.
"""

from typing import Any

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg

# All of the U-Net but its first convolution, which reads more channels here.
UNITS = ("time", *(f"{way}_{i}" for way in ("down", "up") for i in range(4)), "middle", "norm_out", "conv_out")


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, data="photos.jsonl", init="stable-diffusion-2-base", size=512, steps=200_000, batch=2048, smoke=False
    )

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="depth", text_drop=0.1)
    unet = dict(name="conditional_unet", inputs=5, heads=(5, 10, 20, 20), context_width=1024, linear=True)
    vae = dict(name="kl_autoencoder", variant="f8")
    text = dict(name="text_tower", width=1024, depth=23, num_heads=16, max_length=77, gelu="exact")
    if arg.smoke:
        unet |= dict(channels=32, num_blocks=1, heads=2, context_width=32)
        vae |= dict(channels=32, num_blocks=1)
        text |= dict(width=32, depth=1, num_heads=2)
    for section in (unet, vae, text):
        section["dtype"] = "bfloat16"
    config.model = dict(name="latent_diffusion", unet=unet, autoencoder=vae, text=text)
    if not arg.smoke:
        subtrees = ("autoencoder", "text", *(f"unet/{name}" for name in UNITS))
        config.init_from = dict.fromkeys(subtrees, arg.init)
    config.data = dict(
        image_size=64 if arg.smoke else arg.size,
        train=_examples(arg.data),
        eval=_examples(arg.data),
        fields=dict(
            image=dict(name="image"),
            text=dict(name="tokens", tokenizer="clip_bpe", length=77, long="cut", pad="end"),
            depth=dict(name="dense", dtype="float32"),
        ),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="largest",
            area=(1, 1),
            aspect=(1, 1),
            interpolation="bicubic",
            flip=False,
        ),
        eval_batch_size=8 if arg.smoke else 64,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-4,
        weight_decay=0.01,
        schedule=dict(name="constant", warmup_steps=5 if arg.smoke else 10_000),
    )
    if not arg.smoke:
        config.optim.frozen = ("autoencoder/.*", "text/.*")
    config.ema_decay = 0.9999
    config.evals = dict()
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5000, keep=2)
    return config


def _examples(data: str) -> dict[str, Any]:
    """The source of a manifest."""
    return dict(name="manifest", path=data, files=dict(depth="depth"), columns=dict(text="text"))
