"""SparseViT on ImageNet-1k: a Swin-T gets used to windows that are left out, and is fine-tuned at the ratios found.

  vit_jax train --config sparsevit_i1k:init=runs/swin --workdir runs/adapted
  vit_jax search-sparsity --checkpoint runs/adapted --max-latency 0.7 --examples 5000 --output ratios.json
  vit_jax train --config sparsevit_i1k:stage=finetune,init=runs/adapted,ratios=cfg1 --workdir runs/pruned

Paper: "SparseViT: Revisiting activation sparsity for efficient high-resolution vision Transformer" (arXiv:2303.17605),
sections 3.2 and 3.3, with the settings of the authors' configs (github.com/mit-han-lab/sparsevit, configs/sparsevit):
12 epochs of adaptation with other ratios in each step, 36 epochs of fine-tuning at fixed ones; AdamW with a learning
rate of 1e-5 and decay 0.05, not on norms and tables of relative positions, drop path 0.2, 1,000 steps of warmup.
Expected: for classification there is no published figure. The paper prunes detectors: its README has for Mask R-CNN at
672x672 47.8 ms with 42.6 box AP dense, and 41.3 ms with 42.4 (cfg1), 34.2 with 41.6 (cfg2) and 32.9 with 41.3 (cfg3).
Hardware and time: these are of an RTX A6000 with batches of 4. The time of training is not known.

The authors train a detector on COCO with batches of 16.

Where this differs, without a known effect:
- images: 448x448, because at 224 the last stage of Swin-T has a single window, of which nothing can be left out.
- augmentation: crops and flips.
- schedule: cosine, where the detector's has steps, and gradients are clipped.

Arguments: `init=PATH` a Swin, or an adapted run (must be given), `stage` adapt or finetune, `ratios` cfg1, cfg2 or cfg3
of fine-tuning; others by --config.model.pruning_ratios=[[0.7],[0],[0.2,0.4,0.5],[0]]; `variant` of Swin, `res`,
`batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.naming import nearest
from vit_jax.nn.pruning import PRESETS
from vit_jax.training.config import parse_arg

EPOCHS = {"adapt": 12, "finetune": 36}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, init="", stage="adapt", ratios="cfg1", variant="T", res=448, batch=256, smoke=False)
    if arg.stage not in EPOCHS:
        raise UserError(f"Unknown stage {arg.stage!r}", nearest(arg.stage, EPOCHS))
    if arg.ratios not in PRESETS:
        raise UserError(f"Unknown ratios {arg.ratios!r}", nearest(arg.ratios, PRESETS))
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config sparsevit_i1k:init=PATH")
    adapts = arg.stage == "adapt"

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=EPOCHS[arg.stage])
    config.batch_size = 8 if arg.smoke else arg.batch
    # The head too: adaptation goes on with the classes that the Swin has learned.
    config.init_from = dict(encoder=arg.init, head=arg.init)
    config.task = dict(name="sparsevit" if adapts else "classify", label_smoothing=0.1)
    config.model = dict(
        name="sparse_swin", variant=arg.variant, window_size=7, drop_path_rate=0.2, dtype="bfloat16",
        pruning_ratios=None if adapts else PRESETS[arg.ratios],
    )  # fmt: skip
    config.data = dict(
        image_size=(arg.res, arg.res),
        preprocess=dict(
            resize="short_side", resize_to=arg.res * 8 // 7, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
        ),
        train=dict(name="tfds", dataset="imagenet2012", split="train[:99%]"),
        eval=dict(name="tfds", dataset="imagenet2012", split="train[99%:]"),
        transform=dict(name="supervised", crop="random", area=(0.08, 1.0), flip=True, interpolation="bicubic"),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-5,
        weight_decay=0.05,
        weight_decay_multipliers=((".*norm.*", 0.0), (".*relative_position_bias_table", 0.0), (".*", 1.0)),
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else 1000),
    )
    validation = dict(name="tfds", dataset="imagenet2012", split="validation")
    config.evals = dict(val=dict(name="classification", source=validation), held_out=dict(name="classification"))
    config.eval_every = 10 if arg.smoke else 5000
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
