"""A small classifier from a large one, by matching the large one's answers on mixed images for a long time.

  vit_jax train --config distil:teacher=runs/large,data=photos --workdir runs/small
  vit_jax train --config distil:teacher=TEACHER,variant=R50x1 --workdir runs/r50

Paper: "Knowledge distillation: a good teacher is patient and consistent" (arXiv:2106.05237), with the values of
big_vision's configs (proj/distill at 2f3f493): teacher and student see the same crop, mixed by mixup with a uniform
weight; the loss is the Kullback-Leibler divergence from the teacher's answers alone; Adam with its first moment in
bfloat16, gradients clipped at 1, cosine.

            batch   epochs   learning rate   decay, of the rate   warmup       temperature
  ImageNet  4096    1200     0.03            0.01                 5000 steps   1
  folder    512     1000     0.01            0.1                  a tenth      5

The second row is that of their quickest run on Oxford Pets; with more epochs they take a lower rate (0.003) and another
temperature (10 or 2), and with fewer images more epochs.
Expected: a ResNet-50 reaches 82.8% on ImageNet, the paper's abstract says, after 9600 epochs of a BiT-R152x2.
Hardware and time: 300 epochs of ImageNet take 15 hours on a TPU v3-32, by the authors' config.

The teacher is any classifier that `load` reads (a run, a file, hf://owner/name), of the classes of the data; its
images are the student's with its own size and statistics. `vit_jax convert runs/small FILE` leaves it out.

Where this differs, without a known effect:
- mixup: a row's partner is its neighbour, its own weight is the larger one, and each image has a weight of its own.
- warmup: for a folder it is a tenth of the run; theirs are 1500 steps, a quarter of that run.
- student: for their ResNet-50 write variant=R50x1; the default is a ViT.

Arguments: `teacher=PATH` (must be given); `data=FOLDER` with the splits train and test instead of ImageNet; `variant`
of ViT or BiT; `res` in pixels (0: the teacher's); `epochs`, `batch`, `lr`, `temperature` (0: as in the table);
`microbatch` examples at a time where memory is short, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import teacher_sections
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, teacher="", data="", variant="S/16", res=0, epochs=0, batch=0, lr=0.0, temperature=0.0, microbatch=0,
        smoke=False,
    )  # fmt: skip
    if not arg.teacher:
        raise UserError("This config needs a teacher", "Write --config distil:teacher=PATH,data=FOLDER")
    small = bool(arg.data)
    rate = arg.lr or (0.01 if small else 0.03)
    source = dict(name="folder", root=arg.data) if small else dict(name="tfds", dataset="imagenet2012")
    taught = teacher_sections(arg.teacher)
    size = arg.res or max(taught["teacher_sees"]["image_size"])

    epochs = arg.epochs or (1000 if small else 1200)
    warmup = 2 if arg.smoke else dict(epochs=epochs / 10) if small else 5000

    config = ConfigDict()
    config.seed = 0
    config.steps = 10 if arg.smoke else dict(epochs=epochs)
    config.batch_size = 8 if arg.smoke else arg.batch or (512 if small else 4096)
    config.microbatch = arg.microbatch or None
    config.init_from = dict(teacher=f"{arg.teacher}::")
    config.task = dict(
        name="distil", **taught, form="soft", temperature=arg.temperature or (5.0 if small else 1.0), alpha=1.0
    )
    config.model = dict(name="bit" if arg.variant.upper().startswith("R") else "vit", variant=arg.variant)
    config.data = dict(
        image_size=(size, size),
        preprocess=dict(resize="short_side", resize_to=round(size * 8 / 7)),
        train=dict(source, split="train"),
        eval=dict(source, split="test" if small else "validation"),
        transform=dict(name="supervised", crop="random", sampling="inception", flip=True),
        mix=dict(mixup=1.0, per="example"),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=rate,
        weight_decay=(1e-3 if small else 3e-4) / rate,
        mu_dtype="bfloat16",
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=warmup),
        frozen=("teacher/.*",),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = 5 if arg.smoke else dict(epochs=50)
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=5 if arg.smoke else 1000, keep=1)
    return config
