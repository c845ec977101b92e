"""CoOp on a few images of each class: the words around a class's name are learned, both towers stay as they are.

  vit_jax train --config coop:init=CLIP,data=FOLDER,shots=16 --workdir runs/coop-16
  vit_jax train --config coop:init=CLIP,dataset=caltech101,shots=1,context=csc --workdir runs/caltech-1-csc

Paper: "Learning to Prompt for Vision-Language Models" (arXiv:2109.01134), section 4.1; batch, crops and schedule from
the authors' configs/trainers/CoOp/rn50.yaml: SGD at 0.002 with a cosine, the first epoch at a constant 1e-5, batch 32,
random crops and flips; 200 epochs for 16 and 8 shots, 100 for 4 and 2, 50 for 1 and on ImageNet. 16 vectors from
N(0, 0.02), or with `words="a photo of a"` 4 from these words; the class's name at the end.

Expected, with CLIP's ResNet-50 and 16 shots, beside three hand-written prompts (figure 1 of the paper):

                  hand-written prompts     CoOp
  Caltech101      82.68  80.81  86.29      91.83
  Flowers102      60.86  65.81  66.14      94.51
  DTD             39.83  40.25  42.32      63.58
  EuroSAT         24.17  37.46  37.56      83.53

Learned on ImageNet with 16 shots, and tested on other sets of it (the paper's table on domain generalisation):

                          ImageNet   -V2     -Sketch   -A      -R
  RN50, zero-shot         58.18      51.34   33.32     21.65   56.00
  RN50, linear probe      55.87      45.97   19.07     12.74   34.86
  RN50, M=16              62.95      55.11   32.74     22.12   54.96
  RN50, M=4               63.33      55.40   34.67     23.06   56.60
  ViT-B/16, zero-shot     66.73
  ViT-B/16, M=16          71.92
  ViT-B/16, M=4           71.73      64.56   47.89     49.93   75.14

Hardware and time: not given. A step encodes one prompt for each class, forward and backward, whatever the batch.

Where this differs, without a known effect:
- weight decay: none. The authors' training library has 5e-4 by default, which moves a vector by a millionth a step.
- rate: it falls with every step, in the authors' code with every epoch.
- splits: those of TFDS, or of the folder. The authors have made their own for all sets but ImageNet.
- words: with them the context is learned as what is added to the words' vectors, which is the same.

Arguments: `init=PATH` of a CLIP (must be given); `data=FOLDER` with the splits train and test, or `dataset=NAME` of
TFDS; `shots` of each class, drawn by `seed`; `context` (unified, csc), `length` of it (0: that of the words, or 16),
`words`, `position` (end, middle, front); `once` for whole images instead of crops, whose embeddings are computed once;
`base` to learn on the first half of the classes and measure the others too; `epochs` (0: the paper's), `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.transfer import starting_towers
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, init="", data="", dataset="imagenet2012", shots=16, seed=0, context="unified", length=0, words="",
        position="end", once=False, base=False, epochs=0, smoke=False,
    )  # fmt: skip
    if not arg.init:
        raise UserError("This config needs a checkpoint to start from", "Write --config coop:init=PATH")
    model, data, tokenizer = starting_towers(arg.init)
    source = dict(name="folder", root=arg.data) if arg.data else dict(name="tfds", dataset=arg.dataset)
    imagenet = not arg.data and arg.dataset == "imagenet2012"
    epochs = arg.epochs or (50 if imagenet or arg.shots == 1 else 100 if arg.shots < 8 else 200)
    classes = "base" if arg.base else "all"
    crops = dict(crop="random", sampling="torchvision", area=(0.08, 1.0), interpolation="bicubic", flip=True)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = 10 if arg.smoke else dict(epochs=epochs)
    config.batch_size = 8 if arg.smoke else 32
    config.init_from = arg.init
    config.task = dict(
        name="coop",
        tokenizer=tokenizer,
        context=arg.context,
        context_length=arg.length or None,
        words=arg.words or None,
        position=arg.position,
        classes=classes,
    )
    config.model = model
    config.data = dict(
        **data,
        train=dict(
            name="few_shot", source=dict(source, split="train"), shots=arg.shots, seed=arg.seed, classes=classes
        ),
        eval=dict(source, split="validation" if imagenet else "test"),
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
    config.evals = dict(val=dict(name="base_to_new" if arg.base else "classification"))
    config.log_every = 5 if arg.smoke else 50
    return config
