"""A locked picture tower and a text tower that learns to read it: LiT on emoji, on two cores.

  vit_jax prepare emoji --from node_modules --output emoji
  python benchmarks/towers.py --output towers
  vit_jax train --config emoji_lit:data=emoji,towers=towers --workdir runs/emoji-lit

Paper: none; "LiT: zero-shot transfer with locked-image text tuning" (arXiv:2111.07991), its setting LU, at the smallest
size that shows it: the image tower has DINOv2's architecture (S/14, 112 pixels) and is locked, the text tower is MiniLM
(6 blocks of width 384) and unlocked, and 1,523 pairs instead of 4 billion. What the locked tower makes of the pictures
is computed once. In training a text is the picture's name or one of its keywords, with `keywords=false` always the
name: then names are found better, and categories are told worse.
Expected: see the table of the experiments on pictures and words in the docs. Hardware: 2 CPU cores. Time: 10 minutes, 5
with names alone.

Tested as `emoji_clip` is.

Arguments: `data` folder that `vit_jax prepare emoji` wrote, `towers` folder that `benchmarks/towers.py` wrote, `steps`
(0: 400, with names alone 200), `lr` of the text tower (the projections have ten times as much), `keywords`, `seed`,
`smoke` for a run of a minute.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, data="emoji", towers="towers", steps=0, lr=1e-4, keywords=True, seed=0, smoke=False)
    steps = 20 if arg.smoke else arg.steps or (400 if arg.keywords else 200)
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
        name="two_towers",
        image=dict(
            name="vit",
            variant="S/14",
            gelu="exact",
            layer_norm_epsilon=1e-6,
            layer_scale_init=1.0,
            posemb_resize="bicubic",
        ),
        text=dict(
            name="bert",
            width=384,
            depth=6,
            num_heads=12,
            mlp_dim=1536,
            max_length=512,
            pooler=False,
            pooling="mean",
            dropout_rate=0.1,
        ),
        embed_dim=384,
    )
    config.init_from = dict(encoder=f"{arg.towers}/dinov2", text=f"{arg.towers}/minilm")
    config.data = dict(
        image_size=112,
        # What DINOv2 was trained on.
        preprocess=dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), interpolation="bicubic"),
        train=dict(pairs, split="train", text_key=("text", "keywords") if arg.keywords else "text"),
        eval=test,
        fields=dict(image=dict(name="image"), text=dict(name="tokens", tokenizer="wordpiece", length=12, long="cut")),
        transform=dict(name="supervised", crop="none", flip=False),
        eval_batch_size=128,
    )
    config.precompute = dict(output="features", directory=f"{arg.towers}/features")
    config.optim = dict(
        name="adamw",
        learning_rate=arg.lr,
        learning_rate_multipliers=[(".*_projection/.*", 10.0), ("logit_scale", 10.0)],
        weight_decay=0.01,
        clip_norm=1.0,
        frozen=("encoder/.*",),
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    config.evals = dict(
        retrieval=dict(name="retrieval"),
        other_art=dict(name="retrieval", source=other_art),
        category=category,
    )
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 25
    config.checkpoint = dict(every=None if arg.smoke else 200, keep=1)
    return config
