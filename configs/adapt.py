"""Adapts any checkpoint to a folder of images by a few per cent of its parameters: LoRA, or visual prompt tuning.

  vit_jax train --config adapt:init=runs/mine,data=photos --workdir runs/photos
  vit_jax train --config adapt:init=runs/mine,data=photos,by=deep_prompts --workdir runs/photos

Papers: LoRA (arXiv:2106.09685), by default on the queries and values of all blocks, as in its section 4.2; and visual
prompt tuning (arXiv:2203.12119) with prompts before every block ("deep_prompts") or before the first ("prompts"). The
checkpoint's network stays as it is; adapters and a fresh zero-initialised head learn, and these alone are saved: the
run names its base by path and digest. AdamW, cosine and 500 steps with 100 of warmup are those of no paper.
Expected, hardware, time: whatever your images are.

The model, its dropout and pooling, and the preprocessing are those of the checkpoint; head and tanh layer are new.

Arguments: `init=PATH` a workdir, step directory or published file (must be given), `data=FOLDER` with a folder per
class, or with the splits train and test, `by` (lora, prompts, deep_prompts), `rank` of the adapters, `prompts` before a
block, `res` side of the images in pixels (0: as the checkpoint), `steps`, `lr`, `batch`, `microbatch` examples at a
time where memory is short (0: all), `smoke`. Other kernels than queries and values: `--config.lora.match=PATTERN`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, init="", data="data", by="lora", rank=8, prompts=10, res=0, steps=500, lr=2e-3, batch=128, microbatch=0,
        smoke=False,
    )  # fmt: skip
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config adapt:init=PATH,data=FOLDER")
    if arg.by not in ("lora", "prompts", "deep_prompts"):
        raise UserError(f"by={arg.by!r} is no way to adapt", nearest(arg.by, ("lora", "prompts", "deep_prompts")))
    model, data = starting_point(arg.init, arg.res or None)
    steps = 10 if arg.smoke else arg.steps

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.microbatch = arg.microbatch or None
    config.init_from = arg.init
    config.task = dict(name="classify")
    config.optim = dict(
        name="adamw",
        learning_rate=arg.lr,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=min(500, steps // 5)),
    )
    if arg.by == "lora":
        config.model = model
        config.lora = dict(rank=arg.rank)
    else:
        config.model = dict(name="vpt", trunk=model, num_prompts=arg.prompts, deep=arg.by == "deep_prompts")
        config.optim.frozen = ["encoder/.*"]
    config.data = dict(
        **data,
        train=dict(name="folder", root=arg.data, split="train"),
        eval=dict(name="folder", root=arg.data, split="test"),
        transform=dict(name="supervised", crop="random", flip=True),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = max(1, steps // 5)
    config.log_every = max(1, min(50, steps // 10))
    config.checkpoint = dict(every=max(1, steps // 5), keep=1, frozen="base")
    return config
