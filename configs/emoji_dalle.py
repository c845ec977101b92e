"""A small DALL-E on emoji and what they are called, on two cores: first its tokenizer, then its transformer.

  vit_jax prepare emoji --from node_modules --output emoji
  vit_jax train --config emoji_dalle:stage=tokenizer,data=emoji --workdir runs/emoji-vq
  vit_jax train --config emoji_dalle:data=emoji,tokenizer=runs/emoji-vq --workdir runs/emoji-dalle
  vit_jax sample --checkpoint runs/emoji-dalle --prompt "red heart" --count 16 --output grid.png

Paper: none; "Zero-shot text-to-image generation" (arXiv:2102.12092) at the smallest size that shows it: 1,523 pictures
of 32x32 pixels as 8x8 tokens of 128 of a VQ-VAE, texts of 16 tokens, and 6 blocks of width 128 that see rows, columns
and a square. In training a text is the picture's name or one of its keywords.
Expected: the tokenizer's reconstructions of 383 held out emoji have a PSNR of 20.4 dB (two runs); the transformer has
not been trained to its end. Hardware: 2 CPU cores. Time: 4 minutes of one core for the tokenizer, 8 beside other work;
an hour and a half for the transformer, at the 17 images a second that its first steps made beside other work.

Of several samples for a text the best by a judge are `vit_jax.checkpoints.reranking.best_samples`, for which
`emoji_clip` trains a CLIP.

Arguments: `stage=tokenizer|transformer`, `data` folder that `vit_jax prepare emoji` wrote, `tokenizer` a checkpoint of
the first stage, `sparse=no` for blocks that see everything before them, `steps`, `seed`, `smoke` for a run of seconds.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

TOKENIZER = dict(
    name="vqvae", width=64, depth=2, factor=4, latent_width=16, vocab_size=128, beta=0.25, decay=0.99, restart_below=1.0
)


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, stage="transformer", data="emoji", tokenizer="runs/emoji-vq", sparse="yes", steps=0, seed=0, smoke=False
    )
    if arg.stage not in ("tokenizer", "transformer"):
        raise UserError(
            f"There is no stage {arg.stage!r} of emoji_dalle", nearest(arg.stage, ("tokenizer", "transformer"))
        )
    first = arg.stage == "tokenizer"
    steps = arg.steps or (20 if arg.smoke else 800 if first else 1500)
    pairs = dict(name="pairs", path=f"{arg.data}/google.jsonl")

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 64
    config.task = dict(name="vqvae", variance=0.1) if first else dict(name="dalle", tokenizer=TOKENIZER, text_drop=0.1)
    if first:
        config.model = TOKENIZER
    else:
        config.model = dict(
            name="dalle", width=128, depth=6, num_heads=4, reach=1, sparse=arg.sparse != "no", init_stddev=0.09,
            dropout_rate=0.1,
        )  # fmt: skip
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.data = dict(
        image_size=32,
        train=dict(pairs, split="train") if first else dict(pairs, split="train", text_key=("text", "keywords")),
        eval=dict(pairs, split="test"),
        fields=dict(image=dict(name="image")),
        transform=dict(name="supervised", crop="random", area=(0.8, 1.0), flip=False, rotate=5.0, shift=0.03),
        eval_batch_size=64,
    )
    if not first:
        config.data.fields.text = dict(name="tokens", tokenizer="clip_bpe", length=16, bos=False, long="cut")
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3 if first else 1e-3,
        weight_decay=0.0 if first else 0.1,
        b2=0.99 if first else 0.96,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    if first:
        config.evals = dict(pixels=dict(name="reconstruction"), codes=dict(name="codebook", vocab_size=128))
    else:
        config.optim.frozen = ("tokenizer/.*",)
        config.evals = dict(val=dict(name="bits"))
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
