"""Stable Diffusion 1: the U-Net, on latents of 512x512 pixels and CLIP's tokens of texts.

  vit_jax train --config sd_v1:data='shards/{00000..99999}.tar',autoencoder=PATH,text=PATH --workdir runs/sd
  vit_jax plan --config sd_v1 --sample
  vit_jax sample --checkpoint stable-diffusion-v1-5 --prompts prompts.txt --output images/

Paper: "High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752), section 3.3; sizes and recipe
are those of the model card of Stable Diffusion v1: a U-Net of 860 M parameters, AdamW with 1e-4 after 10,000 steps of
warmup, batch 2,048, from v1.3 on 10 % of the texts dropped; 237,000 steps at 256 pixels and 194,000 at 512 (v1.1),
515,000 at 512 (v1.2), 595,000 more (v1.5). Decay 0.01 and the average's 0.9999 are defaults of their code, from memory.
Expected: the card shows FID against guidance for 50 steps of PLMS as a picture, without numbers.
Hardware and time: 32 machines of 8 A100; about 150,000 GPU hours, as the card estimates.

The autoencoder (kl-f8) and the text tower (CLIP's, ViT-L/14) are loaded and stay as they are: `autoencoder` and `text`
name checkpoints, such as the folders `vae` and `text_encoder` of a published pipeline.

Where this differs, without a known effect:
- data: theirs were subsets of LAION-5B, filtered by size, watermark and estimated beauty.
- texts: dropped from the first step on, theirs from v1.3 on.
- precision: bfloat16 with norms, softmax and parameters in float32.

Arguments: `data` a pattern of tar shards (.jpg or .png with .txt) or a manifest, `autoencoder`, `text`, `init` (a whole
pipeline to go on from), `size` (512, or 256 for the first steps), `steps`, `batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg

TEXT = dict(name="text_tower", width=768, depth=12, num_heads=12, max_length=77)


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, data="shards/*.tar", autoencoder="stable-diffusion-v1-5/vae", text="stable-diffusion-v1-5/text_encoder",
        init="", size=512, steps=431_000, batch=2048, smoke=False,
    )  # fmt: skip

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="text_to_image", text_drop=0.1)
    unet, vae, text = dict(name="conditional_unet"), dict(name="kl_autoencoder", variant="f8"), dict(TEXT)
    if arg.smoke:
        unet |= dict(channels=32, num_blocks=1, context_width=32)
        vae |= dict(channels=32, num_blocks=1)
        text |= dict(width=32, depth=1, num_heads=2)
    for section in (unet, vae, text):
        section["dtype"] = "bfloat16"
    config.model = dict(name="latent_diffusion", unet=unet, autoencoder=vae, text=text)
    if not arg.smoke:
        parts = dict(autoencoder=f"{arg.autoencoder}::", text=arg.text)
        config.init_from = arg.init or parts
    config.data = dict(
        image_size=64 if arg.smoke else arg.size,
        train=_pairs(arg.data),
        eval=_pairs(arg.data),
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


def _pairs(data: str) -> dict[str, str]:
    """The source of a pattern of tar shards, or of a manifest."""
    manifest = data.endswith((".jsonl", ".csv"))
    return dict(name="pairs", path=data) if manifest else dict(name="webdataset", paths=data)
