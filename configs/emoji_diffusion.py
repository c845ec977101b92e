"""Latent diffusion on emoji and what they are called, on two cores: the autoencoder, the U-Net, and a ControlNet.

  vit_jax prepare emoji --from node_modules --output emoji
  vit_jax train --config emoji_clip:data=emoji --workdir runs/emoji-clip
  vit_jax train --config emoji_diffusion:stage=autoencoder,data=emoji --workdir runs/emoji-kl
  vit_jax train --config emoji_diffusion:data=emoji --workdir runs/emoji-diffusion
  vit_jax sample --checkpoint runs/emoji-diffusion --prompt "red heart" --count 16 --output grid.png
  vit_jax train --config emoji_diffusion:stage=edges,data=emoji --workdir runs/emoji-edges
  vit_jax sample --checkpoint runs/emoji-edges --control edges:emoji/google/1f431.png --prompt "dog" --output dog.png

Paper: none; "High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752) at the smallest size that
shows it: 1,523 pictures of 32x32 pixels as latents of 8x8x4, and a U-Net of 64 and 128 channels that attends to the
tokens of `emoji_clip`'s text tower. In training a text is the picture's name or one of its keywords. The third stage is
a ControlNet (arXiv:2302.05543) of Canny's edges, which it reads in 32x32 pixels; all else stays as it is.
Expected: CLIP score 63.0 of held-out names at guidance 3 (real pictures 45.3, no text 16.2), F1 of edges 0.83 with
control and 0.65 without, see the table that `benchmarks/emoji_diffusion.py` makes. Hardware: 2 CPU cores. Time: of a
core the U-Net 32 minutes and the ControlNet 31, beside other work.

Arguments: `stage=autoencoder|diffusion|edges`, `data` folder that `vit_jax prepare emoji` wrote, `autoencoder` a
checkpoint of the first stage, `text` one of `emoji_clip`, `diffusion` one of the second stage, `steps`, `seed`, `smoke`
for a run of seconds.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

AUTOENCODER = dict(
    name="kl_autoencoder", channels=16, multipliers=(1, 2, 4), num_blocks=1, attention_levels=(), latent_width=4,
    norm_groups=8, scale="measured",
)  # fmt: skip
STEPS = {"autoencoder": 800, "diffusion": 1500, "edges": 1500}
TEXT = dict(name="text_tower", width=128, depth=2, num_heads=4, max_length=16)


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, stage="diffusion", data="emoji", autoencoder="runs/emoji-kl", text="runs/emoji-clip",
        diffusion="runs/emoji-diffusion", steps=0, seed=0, smoke=False,
    )  # fmt: skip
    if arg.stage not in STEPS:
        raise UserError(f"There is no stage {arg.stage!r} of emoji_diffusion", nearest(arg.stage, STEPS))
    first, edges = arg.stage == "autoencoder", arg.stage == "edges"
    steps = arg.steps or (20 if arg.smoke else STEPS[arg.stage])
    pairs = dict(name="pairs", path=f"{arg.data}/google.jsonl")
    view = dict(crop="random", area=(0.8, 1.0), flip=False, rotate=5.0, shift=0.03)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 64
    # The names that are held out are prompts that no training image had.
    if first:
        config.task = dict(name="vqgan", reduction="sum", kl_weight=1e-6)
        config.model = AUTOENCODER
    else:
        unet = dict(
            name="conditional_unet", channels=64, multipliers=(1, 2), num_blocks=1, attention_levels=(0, 1), heads=4,
            context_width=128,
        )  # fmt: skip
        config.task = dict(name="text_to_image", text_drop=0.1)
        dropped = dict(unet, dropout_rate=0.1)
        config.model = dict(name="latent_diffusion", unet=dropped, autoencoder=AUTOENCODER, text=TEXT)
        config.init_from = dict(autoencoder=f"{arg.autoencoder}::", text=arg.text)
        if edges:
            config.task = dict(name="controlnet", text_drop=0.5)
            # The autoencoder divides sides by 4, and so does what reads the edges.
            config.model.control = {**unet, "name": "controlnet", "hint_widths": (16, 32, 64)}
            parts = dict.fromkeys(("unet", "autoencoder", "text"), arg.diffusion)
            config.init_from = parts | {"control_0": f"{arg.diffusion}::unet"}
    config.data = dict(
        image_size=32,
        train=dict(pairs, split="train") if first else dict(pairs, split="train", text_key=("text", "keywords")),
        eval=dict(pairs, split="test"),
        fields=dict(image=dict(name="image")),
        transform=dict(name="edges", view=view) if edges else dict(name="supervised", **view),
        eval_batch_size=64,
    )
    if not first:
        config.data.fields.text = dict(name="tokens", tokenizer="clip_bpe", length=16, long="cut")
    if edges:
        config.data.fields.control = dict(name="control")
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3 if first else 1e-3,
        weight_decay=0.0,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    if first:
        config.evals = dict(pixels=dict(name="reconstruction"))
    else:
        config.optim.frozen = ("autoencoder/.*", "text/.*", *(["unet/.*"] if edges else []))
        # The rate falls to zero. An average of 0.999 held a fifth of the first random numbers: it drew bright noise.
        config.ema_decay = None
        config.evals = dict()
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
