"""A cascade of two diffusions in small, 16 and then 32 pixels, and a classifier of noisy images that leads the first.

  vit_jax train --config cascade_fashion:stage=classifier --workdir runs/judge16
  vit_jax train --config cascade_fashion:stage=first,classifier=runs/judge16 --workdir runs/first
  vit_jax train --config cascade_fashion:stage=first --workdir runs/plain
  vit_jax train --config cascade_fashion:stage=second,first=runs/plain --workdir runs/second
  vit_jax sample --checkpoint runs/first --sampler ddim --steps 50 --classifier-scale 3 --count 40 --output small.png
  vit_jax sample --checkpoint runs/second --sampler ddim --steps 50 --guidance 2 --count 40 --output large.png
  vit_jax sample --checkpoint runs/second --sampler ddim --steps 50 --image small/000.png --classes 7 --output one.png

Paper: none; in small CDM (arXiv:2106.15282) and ADM's guidance (arXiv:2105.05233). Data: Fashion-MNIST at 32 and 16
pixels. Expected: garments; nothing has been measured with this recipe.
Hardware and time: two CPU cores; the time was not measured.

Arguments: `stage` (first, second or classifier), `first` and `classifier`, runs whose parameters lie beside, `steps`,
`seed`, `root=FOLDER` of the IDX files, `smoke` for a run of seconds on scikit-learn's digits of 8 and 16 pixels.
"""

from typing import Any

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

STEPS = {"classifier": 2000, "first": 4000, "second": 4000}
NOISE = dict(schedule="cosine", steps=400)


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, stage="first", first="", classifier="", steps=0, seed=0, root=FASHION_MNIST, smoke=False)
    if arg.stage not in STEPS:
        raise UserError(f"There is no stage {arg.stage!r} here", nearest(arg.stage, STEPS))
    steps = arg.steps or (4 if arg.smoke else STEPS[arg.stage])
    source = dict(name="digits", per_class=8) if arg.smoke else dict(name="idx", root=arg.root)
    side = (8 if arg.smoke else 16) * (2 if arg.stage == "second" else 1)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 8 if arg.smoke else 64
    config.data = dict(
        image_size=(side, side),
        train=dict(source, split="train"),
        eval=dict(source, split="test"),
        transform=dict(name="supervised", crop="none", flip=False),
        eval_batch_size=None if arg.smoke else 250,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    judge = _judge(arg.smoke)
    if arg.stage == "classifier":
        config.task, config.model = dict(name="noisy_classifier", **NOISE), judge
        config.evals = dict(val=dict(name="classification"))
    else:
        config.task, config.model = dict(name="ddpm", **NOISE, conditional=True, label_drop=0.1), _unet(arg)
        config.ema_decay = 0.5 if arg.smoke else 0.995
        drawn = dict(sampler="ddim", steps=2 if arg.smoke else 25)
        config.evals = dict(sheet=dict(name="samples", settings=drawn))
    if arg.stage == "first" and arg.classifier:
        config.task.classifier = judge
        config.init_from = dict(classifier=f"{arg.classifier}::")
        config.optim.frozen = ("classifier/.*",)
    if arg.stage == "second":
        config.task.name = "upscale_diffusion"
        if arg.first:
            config.task.base = dict(**NOISE, conditional=True, label_drop=0.1, model=_unet(arg))
            config.init_from = dict(base=f"{arg.first}::")
            config.optim.frozen = ("base/.*",)
        else:
            config.evals = dict(sheet=dict(name="samples", of="reconstruction"))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else max(1, steps // 4), keep=1)
    return config


def _unet(arg: Any) -> dict[str, Any]:
    """Of both stages."""
    return dict(
        name="unet", channels=8 if arg.smoke else 32, multipliers=(1, 2), num_blocks=1, attention_levels=(1,),
        norm_groups=8,
    )  # fmt: skip


def _judge(smoke: bool) -> dict[str, Any]:
    return dict(
        name="unet_classifier", channels=8 if smoke else 32, multipliers=(1, 2), num_blocks=1, attention_levels=(1,),
        head_width=8, norm_groups=8,
    )  # fmt: skip
