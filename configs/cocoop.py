"""CoCoOp: a context that each image shifts, learned on half of the classes and measured on the others too.

  vit_jax train --config cocoop:init=CLIP,data=FOLDER --workdir runs/cocoop

Paper: "Conditional Prompt Learning for Vision-Language Models" (arXiv:2203.05557), section 4.1; all numbers as in the
authors' configs/trainers/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml: CLIP's ViT-B/16, 16 shots, 4 vectors from "a photo
of a", SGD at 0.002 with a cosine, the first epoch at a constant 1e-5, batch 1, 10 epochs, random crops and flips. The
Meta-Net's hidden layer has a sixteenth of the width of an embedded image.

Expected (table 1, the mean over 11 data sets; base classes are the first half, H the harmonic mean):

            base    new     H
  CLIP      69.34   74.22   71.70
  CoOp      82.69   63.22   71.66
  CoCoOp    80.47   71.69   75.83

CoOp's row is `coop:base`. Hardware and time: not given; a step encodes a prompt for every class and image, which is why
the authors' batch is 1.

Where this differs, without a known effect:
- weight decay: none. The authors' training library has 5e-4 by default, which moves a vector by a millionth a step.
- rate: it falls with every step, in the authors' code with every epoch.
- splits: those of TFDS, or of the folder. The authors have made their own for all sets but ImageNet.
- words: with them the context is learned as what is added to the words' vectors, which is the same.

Arguments: `init=PATH` of a CLIP (must be given); `data=FOLDER` with the splits train and test, or `dataset=NAME` of
TFDS; `shots` of each class, drawn by `seed`; `words` that the context starts from (none: 4 vectors from N(0, 0.02)),
`batch`, of which `at_once` images are encoded together; `once` for whole images instead of crops, whose embeddings are
computed once; `epochs`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_towers
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, init="", data="", dataset="imagenet2012", shots=16, seed=0, words="a photo of a", batch=1, at_once=1,
        once=False, epochs=10, smoke=False,
    )  # fmt: skip
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config cocoop:init=PATH")
    model, data, tokenizer = starting_towers(arg.init)
    source = dict(name="folder", root=arg.data) if arg.data else dict(name="tfds", dataset=arg.dataset)
    test = "validation" if not arg.data and arg.dataset == "imagenet2012" else "test"
    crops = dict(crop="random", sampling="torchvision", area=(0.08, 1.0), interpolation="bicubic", flip=True)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 10 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = arg.batch
    config.init_from = arg.init
    config.task = dict(
        name="cocoop", tokenizer=tokenizer, words=arg.words or None, classes="base", images_at_once=arg.at_once
    )
    config.model = model
    config.data = dict(
        **data,
        train=dict(name="few_shot", source=dict(source, split="train"), shots=arg.shots, seed=arg.seed, classes="base"),
        eval=dict(source, split=test),
        eval_batch_size=100,
        transform=dict(name="supervised", **(dict(crop="none", flip=False) if arg.once else crops)),
    )
    if arg.once:
        config.precompute = dict(output="image_embedding")
    config.optim = dict(
        name="sgd",
        learning_rate=0.002,
        momentum=0.9,
        frozen=("(?!prompt/).*",),
        schedule=dict(name="cosine", warmup_steps=2 if arg.smoke else dict(epochs=1), warmup_rate=1e-5),
    )
    config.evals = dict(val=dict(name="base_to_new"))
    config.log_every = 5 if arg.smoke else 50
    return config
