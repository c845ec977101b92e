"""Semantic segmentation in small: emoji of six categories on photos, from scratch, by three kinds of networks.

  vit_jax train --config composites_seg:head=efficientvit --workdir runs/seg
  vit_jax train --config composites_seg:init=model.safetensors,size=168,last=1 --workdir runs/frozen
  vit_jax predict --checkpoint runs/seg photo.png --output maps/

Paper: EfficientViT (arXiv:2205.14756), DINOv2's linear head (arXiv:2304.07193) and UPerNet (arXiv:1807.10221) in small.
Trunks: EfficientViT-B0 with its head for Cityscapes; a ViT of four blocks of width 96 on patches of 8 pixels with the
linear head on all four; a Swin of four stages from width 32 with a UPerNet of width 64. Data: scenes of 96x96 pixels
that the source `composites` makes of what `vit_jax prepare cutouts` writes, without plates; other cut-outs and other
photos are kept for testing. With `init` the trunk is a published one, which stays as it is under a linear head.
Expected: the table that `benchmarks/segmentation.py` makes. Hardware: 2 CPU cores. Time: at most 10 minutes.

Arguments: `head` linear, upernet or efficientvit, `root=FOLDER` of the cut-outs, `scenes` that there are to learn from,
`test`, the number that are evaluated, `size` of them, `steps`, `batch`, `seed`; `init`, a checkpoint of a ViT, with
`last` of its layers under the linear head, `untrained` for the control, the same trunk from random numbers; `smoke` for
a run of a few seconds on drawn shapes, which need no file.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

CATEGORIES = (
    "Animals & Nature", "Food & Drink", "Travel & Places", "Objects", "Activities", "Smileys & Emotion",
)  # fmt: skip
MODELS = {
    "linear": dict(
        trunk=dict(name="vit", variant="mu/8", width=96, depth=4, mlp_dim=384, num_heads=3, pooling="mean"),
        head=dict(name="linear", last=4),
    ),
    "upernet": dict(
        trunk=dict(name="swin", variant="T", width=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=6),
        head=dict(name="upernet", width=64, auxiliary_width=32, map_norms=True),
    ),
    "efficientvit": dict(
        trunk=dict(name="efficientvit", variant="B0"),
        head=dict(name="efficientvit", width=32, depth=1, final_expand=4),
    ),
}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, head="efficientvit", root="composites", scenes=100_000, test=300, size=96, steps=1500, batch=16, seed=0,
        init="", last=1, untrained=False, smoke=False,
    )  # fmt: skip
    if arg.head not in MODELS:
        raise UserError(f"There is no model with the head {arg.head!r} here", nearest(arg.head, MODELS))
    steps = 4 if arg.smoke else arg.steps
    if arg.smoke:
        train, test = (dict(name="shapes", length=n, image_size=arg.size, seed=i) for i, n in enumerate((16, 4)))
        classes = 8
    else:
        scenes = dict(name="composites", root=arg.root, image_size=arg.size, classes=CATEGORIES, plates=0.0)
        train = dict(scenes, split="train", length=arg.scenes, seed=arg.seed)
        test = dict(scenes, split="test", length=arg.test, seed=0)
        classes = 1 + len(CATEGORIES)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 4 if arg.smoke else arg.batch
    config.task = dict(name="segment")
    data: dict = dict(image_size=(arg.size, arg.size))
    if arg.init:
        trunk, data = starting_point(arg.init, arg.size)
        config.model = dict(name="segmenter", trunk=trunk, head=dict(name="linear", last=arg.last))
        config.init_from = None if arg.untrained else dict(encoder=arg.init)
    else:
        config.model = dict(name="segmenter", **MODELS[arg.head])
    config.data = dict(
        **data,
        train=train,
        eval=test,
        fields=dict(image=dict(name="image"), segmentation=dict(name="dense", count=classes)),
        transform=dict(name="dense", scale=(0.7, 1.5)),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 10)),
    )
    if arg.init:
        config.optim.frozen = ("encoder/.*",)
    config.evals = dict(val=dict(name="segmentation"))
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else max(1, steps // 4), keep=1)
    return config
