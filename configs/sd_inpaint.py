"""Stable Diffusion that fills in what a mask hides: the U-Net sees the mask and the latents of what is left.

  vit_jax train --config sd_inpaint:init=stable-diffusion-v1-5,data='shards/{00000..99999}.tar' --workdir runs/inpaint
  vit_jax sample --checkpoint runs/inpaint --image room.jpg --mask sofa.png --prompt "a red sofa" --output new.png

Paper: "High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752), section 4.5; recipe: the model
card of stable-diffusion-inpainting, from memory: v1.2 went on for 595,000 steps without masks, as v1.5 did, and for
440,000 with masks, at 512 pixels, everything masked for a quarter of the images, 10 % of the texts dropped; the rest as
sd_v1. The U-Net has 859,535,364 parameters.
Expected: no figure of the card is repeated here.
Hardware and time: not said for these steps alone; accelerators by the hundred.

Where this differs, without a known effect:
- data: theirs were subsets of LAION-5B.
- masks: one to four boxes; how theirs were drawn is not said.
- first convolution: fresh, theirs went on from that of four channels.
- precision: bfloat16 with norms, softmax and parameters in float32.

Arguments: `init` a published pipeline of Stable Diffusion 1, `data` a pattern of tar shards (.jpg or .png with .txt) or
a manifest, `size`, `steps`, `batch`, `smoke`.
"""

from typing import Any

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg

# All of the U-Net but its first convolution, which reads more channels here.
UNITS = ("time", *(f"{way}_{i}" for way in ("down", "up") for i in range(4)), "middle", "norm_out", "conv_out")


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, data="shards/*.tar", init="stable-diffusion-v1-5", size=512, steps=440_000, batch=2048, smoke=False
    )

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="inpaint", text_drop=0.1)
    unet = dict(name="conditional_unet", inputs=9)
    vae = dict(name="kl_autoencoder", variant="f8")
    text = dict(name="text_tower", width=768, depth=12, num_heads=12, max_length=77)
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
    """The source of a pattern of tar shards, or of a manifest."""
    manifest = data.endswith((".jsonl", ".csv"))
    return dict(name="pairs", path=data) if manifest else dict(name="webdataset", paths=data)
