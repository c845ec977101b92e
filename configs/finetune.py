"""Fine-tunes any checkpoint of this project on a folder of images.

  vit_jax train --config finetune:init=runs/mine,data=photos --workdir runs/photos

Paper: the fine-tuning recipe of the ViT paper (arXiv:2010.11929, section B.1.1 and table 4): SGD with momentum 0.9 kept
in bfloat16, batch 512, gradients clipped at norm 1, no weight decay, cosine, a fresh zero-initialised head, position
embeddings interpolated where the resolution changes. 500 steps with 100 of warmup at a learning rate of 0.03 is the
original code's short setting; the paper's grid for small sets is 0.001, 0.003, 0.01 and 0.03.
Expected, hardware, time: whatever your images are.

The model, its dropout and pooling, and the preprocessing are those of the checkpoint; head and tanh layer are new.

Arguments: `init=PATH` a workdir or step directory (must be given), `data=FOLDER` with a folder per class, or with the
splits train and test, `res` side of the images in pixels (0: as the checkpoint), `steps`, `lr`, `batch`, `microbatch`
examples at a time where memory is short (0: all), `smoke`. Another source than a folder:
`--config.data.train.name=... --config.data.eval.name=...`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, init="", data="data", res=0, steps=500, lr=0.03, batch=512, microbatch=0, smoke=False)
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config finetune:init=PATH,data=FOLDER")
    model, data = starting_point(arg.init, arg.res or None)
    steps = 10 if arg.smoke else arg.steps

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.microbatch = arg.microbatch or None
    config.init_from = arg.init
    config.task = dict(name="classify")
    config.model = model
    config.data = dict(
        **data,
        train=dict(name="folder", root=arg.data, split="train"),
        eval=dict(name="folder", root=arg.data, split="test"),
        transform=dict(name="supervised", crop="random", flip=True),
    )
    config.optim = dict(
        name="sgd",
        learning_rate=arg.lr,
        momentum=0.9,
        accumulator_dtype="bfloat16",
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=min(500, steps // 5)),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = max(1, steps // 5)
    config.log_every = max(1, min(50, steps // 10))
    config.checkpoint = dict(every=max(1, steps // 5), keep=1)
    return config
