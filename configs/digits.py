"""A small ViT on scikit-learn's handwritten digits: what `make demo` pretrains.

Paper: none; the supervised recipe of the ViT paper (arXiv:2010.11929, section B.1) at the smallest size that shows it.
Expected: see the README's table of the demo. Hardware: 2 CPU cores. Time: about a minute.

It is trained on the digits 0 to 6 and probed few-shot on 7 to 9, which it never saw.

Argument: `smoke` for a run of a few seconds.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, smoke=False)
    seen, unseen = tuple(range(7)), tuple(range(7, 10))
    view = dict(name="supervised", crop="none", rotate=30.0, shift=0.15, flip=False, border="constant")
    probe = dict(
        name="fewshot",
        train=dict(name="digits", split="train", classes=unseen),
        test=dict(name="digits", split="test", classes=unseen),
        transform=view,
        shots=(1, 5, 10, 25),
        seeds=3,
    )

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else 400
    config.batch_size = 32 if arg.smoke else 128
    config.task = dict(name="classify")
    config.model = dict(name="vit", variant="mu/4", width=64, depth=3, mlp_dim=256, num_heads=4, pooling="mean")
    config.data = dict(
        image_size=(16, 16),
        train=dict(name="digits", split="train", classes=seen),
        eval=dict(name="digits", split="test", classes=seen),
        transform=view,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else 40),
    )
    config.evals = dict(
        val=dict(name="classification"),
        fewshot=probe,
        pixels=dict(probe, features="pixels"),
    )
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 100, keep=1)
    return config
