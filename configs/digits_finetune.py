"""Fine-tuning on all ten digits at twice the resolution of `digits.py`: the second half of `make demo`.

Paper: the fine-tuning recipe of the ViT paper (arXiv:2010.11929, sections 3.2 and B.1.1) in small: zero-initialised
head, position embeddings interpolated from 4x4 to 8x8, higher resolution.
Expected: see the README's table of the demo. Hardware: 2 CPU cores. Time: about a minute.

Arguments: `init=PATH` of a pretrained checkpoint (none trains from scratch with the same budget), `rare` for a training
set in which each digit is rarer than the one before it, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg

RARE = (140, 100, 70, 50, 35, 25, 18, 12, 9, 6)


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, init="", rare=False, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.steps = 10 if arg.smoke else 240
    config.batch_size = 32 if arg.smoke else 128
    config.init_from = arg.init or None
    config.task = dict(name="classify")
    config.model = dict(name="vit", variant="mu/4", width=64, depth=3, mlp_dim=256, num_heads=4, pooling="mean")
    config.data = dict(
        image_size=(32, 32),
        train=dict(name="digits", split="train", **(dict(per_class=RARE) if arg.rare else {})),
        eval=dict(name="digits", split="test"),
        transform=dict(name="supervised", crop="none", rotate=12.0, shift=0.06, flip=False, border="constant"),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.1,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=2 if arg.smoke else 20),
    )
    config.ema_decay = 0.98  # the paper averages too (Table 2), over a longer run
    val = dict(name="classification")
    if arg.rare:
        val["train"] = config.data.train.to_dict()  # accuracy by how rare a class is
    config.evals = dict(val=val)
    config.eval_every = 5 if arg.smoke else 48
    config.log_every = 5 if arg.smoke else 20
    config.checkpoint = dict(every=config.eval_every, keep=1)
    return config
