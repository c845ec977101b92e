"""A small CLIP on emoji and what they are called, on two cores.

  vit_jax prepare emoji --from node_modules --output emoji
  vit_jax train --config emoji_clip:data=emoji --workdir runs/emoji-clip
  vit_jax predict --checkpoint runs/emoji-clip --labels "a cat, a red heart" emoji/google/1f431.png
  vit_jax retrieve --checkpoint runs/emoji-clip "red heart" emoji/google --output page.html

Paper: none; "Learning transferable visual models from natural language supervision" (arXiv:2103.00020) at the smallest
size that shows it: a ViT of 4 blocks of width 128 that sees 36x36 pixels in patches of 6, a text tower of 2 blocks, and
1,523 pictures instead of 400 million. In training a text is the picture's name or one of its keywords.
Expected: see the table of the experiments on pictures and words in the docs. Hardware: 2 CPU cores. Time: 12 minutes.

It is tested on 383 other emoji: which of their names goes with a picture and which picture with a name, and into which
of 9 categories a picture belongs, by the categories' names.

Arguments: `data` folder that `vit_jax prepare emoji` wrote, `steps`, `seed`, `smoke` for a run of a minute.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, data="emoji", steps=1000, seed=0, smoke=False)
    steps = 20 if arg.smoke else arg.steps
    pairs = dict(name="pairs", path=f"{arg.data}/google.jsonl")
    test, other_art = dict(pairs, split="test"), dict(pairs, path=f"{arg.data}/twitter.jsonl", split="test")
    category = dict(
        name="zero_shot",
        source=dict(test, label_key="category"),
        templates="plain",
        hierarchy=f"{arg.data}/categories.json",
    )

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 128
    config.task = dict(name="clip")
    config.model = dict(
        name="clip",
        variant="mu/6",
        width=128,
        depth=4,
        num_heads=4,
        mlp_dim=512,
        embed_dim=128,
        dropout_rate=0.1,
        text=dict(width=128, depth=2, num_heads=4, max_length=16, dropout_rate=0.1),
    )
    config.data = dict(
        image_size=36,
        train=dict(pairs, split="train", text_key=("text", "keywords")),
        eval=test,
        fields=dict(image=dict(name="image"), text=dict(name="tokens", tokenizer="clip_bpe", length=16, long="cut")),
        transform=dict(name="supervised", crop="random", area=(0.6, 1.0), flip=False, rotate=10.0, shift=0.05),
        eval_batch_size=128,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.2,
        b2=0.98,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    config.evals = dict(
        retrieval=dict(name="retrieval"),
        other_art=dict(name="retrieval", source=other_art),
        category=category,
    )
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
