"""ControlNet of edges: a copied half of Stable Diffusion's U-Net that reads Canny's edges; all else is frozen.

  vit_jax train --config controlnet_edges:init=stable-diffusion-v1-5,data='shards/{0000..2999}.tar' --workdir runs/edges
  vit_jax sample --checkpoint runs/edges --control edges:room.jpg --prompt "a house" --control-end 0.8 --output new.png

Paper: "Adding conditional control to text-to-image diffusion models" (arXiv:2302.05543), sections 3.3 and 3.4: half of
the texts dropped; 3 million images with captions, AdamW with 1e-5 and batch 32 are from memory. 361,279,120 parameters.
Expected: no figure is repeated here; `edge_agreement` measures whether edges are followed.
Hardware and time: 600 hours of an A100 of 80 GB, from memory.

Where this differs, without a known effect:
- data: theirs were collected from the Internet.
- steps: theirs are not said.
- thresholds: multiplied by up to 2 either way, theirs were drawn, how is not said.
- precision: bfloat16 with norms, softmax and parameters in float32.

Arguments: `init` a published pipeline of Stable Diffusion 1, `data` a pattern of tar shards (.jpg or .png with .txt) or
a manifest, `size`, `steps`, `batch`, `smoke`.
"""

from typing import Any

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, data="shards/*.tar", init="stable-diffusion-v1-5", size=512, steps=100_000, batch=32, smoke=False
    )

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="controlnet", text_drop=0.5)
    unet = dict(name="conditional_unet")
    vae = dict(name="kl_autoencoder", variant="f8")
    text = dict(name="text_tower", width=768, depth=12, num_heads=12, max_length=77)
    if arg.smoke:
        unet |= dict(channels=32, num_blocks=1, heads=2, context_width=32)
        vae |= dict(channels=32, num_blocks=1)
        text |= dict(width=32, depth=1, num_heads=2)
    for section in (unet, vae, text):
        section["dtype"] = "bfloat16"
    config.model = dict(name="latent_diffusion", unet=unet, autoencoder=vae, text=text)
    config.model.control = {**{key: value for key, value in unet.items() if key != "name"}, "name": "controlnet"}
    if not arg.smoke:
        config.init_from = dict.fromkeys(("unet", "autoencoder", "text"), arg.init) | {"control_0": f"{arg.init}::unet"}
    config.data = dict(
        image_size=64 if arg.smoke else arg.size,
        train=_examples(arg.data),
        eval=_examples(arg.data),
        fields=dict(
            image=dict(name="image"),
            text=dict(name="tokens", tokenizer="clip_bpe", length=77, long="cut", pad="end"),
            control=dict(name="control"),
        ),
        transform=dict(name="edges", view=dict(sampling="largest", area=(1, 1), aspect=(1, 1), flip=False), spread=2.0),
        eval_batch_size=8 if arg.smoke else 64,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-5,
        weight_decay=0.01,
        schedule=dict(name="constant", warmup_steps=0),
    )
    if not arg.smoke:
        config.optim.frozen = ("autoencoder/.*", "text/.*", "unet/.*")
    config.ema_decay = None
    config.evals = dict()
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5000, keep=2)
    return config


def _examples(data: str) -> dict[str, Any]:
    """The source of a pattern of tar shards, or of a manifest."""
    manifest = data.endswith((".jsonl", ".csv"))
    return dict(name="pairs", path=data) if manifest else dict(name="webdataset", paths=data)
