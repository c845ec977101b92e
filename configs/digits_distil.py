"""A small ViT on scikit-learn's handwritten digits, taught by one that is twelve times as large.

  vit_jax train --config digits_finetune --workdir runs/teacher
  vit_jax train --config digits_distil:teacher=runs/teacher --workdir runs/student

Paper: none; the forms of "Distilling the knowledge in a neural network" (arXiv:1503.02531), of DeiT (arXiv:2012.12877,
section 4) and of "Knowledge distillation: a good teacher is patient and consistent" (arXiv:2106.05237) in small.
Expected: not measured yet. Hardware: 2 CPU cores. Time: not measured; one more step takes a teacher's pass forward.

Arguments: `teacher=PATH`, a classifier of all ten digits (must be given); `form`: soft, hard, token (hard, with DeiT's
distillation token), match (only the teacher's answers, on mixed images) or none (the same student without a teacher);
`seed`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import teacher_sections
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

FORMS = {
    "soft": dict(form="soft", temperature=2.0, alpha=0.9),
    "hard": dict(form="hard", alpha=0.5),
    "token": dict(form="hard", alpha=0.5),
    "match": dict(form="soft", temperature=2.0, alpha=1.0),
    "none": dict(form="soft", alpha=0.0),
}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, teacher="", form="soft", seed=0, smoke=False)
    if not arg.teacher:
        raise UserError("This config needs a teacher", "Write --config digits_distil:teacher=PATH")
    if arg.form not in FORMS:
        raise UserError(f"Unknown form {arg.form!r}", nearest(arg.form, FORMS))

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 10 if arg.smoke else 600
    config.batch_size = 32 if arg.smoke else 128
    config.init_from = dict(teacher=f"{arg.teacher}::")
    config.task = dict(name="distil", **teacher_sections(arg.teacher), **FORMS[arg.form])
    config.model = dict(name="vit", variant="mu/4", width=32, depth=1, mlp_dim=64, num_heads=2, pooling="mean")
    if arg.form == "token":
        config.model.update(pooling="distilled", distillation_token=True)
    config.data = dict(
        image_size=(16, 16),
        train=dict(name="digits", split="train"),
        eval=dict(name="digits", split="test"),
        transform=dict(name="supervised", crop="none", rotate=12.0, shift=0.06, flip=False, border="constant"),
    )
    if arg.form == "match":
        config.data.mix = dict(mixup=1.0, per="example")
    config.optim = dict(
        name="adamw",
        learning_rate=3e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=2 if arg.smoke else 60),
        frozen=("teacher/.*",),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 200, keep=1)
    return config
