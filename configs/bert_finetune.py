"""Fine-tunes BERT on sentences or pairs of sentences with classes, such as a task of GLUE.

  vit_jax train --config bert_finetune:init=runs/bert,data=MNLI,pair --workdir runs/mnli

Paper: "BERT: pre-training of deep bidirectional Transformers for language understanding" (arXiv:1810.04805), section
4.1 and appendix A.3: all parameters with a new linear layer on the first token, dropout 0.1; batch 32, 3 epochs, the
best on the development set of the learning rates 5e-5, 4e-5, 3e-5 and 2e-5. As in the authors' code a tenth of the
steps are warmup, and the rate falls on a straight line.
Expected for base on GLUE's test sets (table 1): MNLI 84.6, QQP 71.2 (F1), QNLI 90.5, SST-2 93.5, CoLA 52.1 (Matthews),
MRPC 88.9 (F1), RTE 66.4; for large 86.7, 72.1, 92.7, 94.9, 60.5, 89.3, 70.1. The accuracy here is that of dev.tsv.
Hardware and time: at most an hour on one Cloud TPU, a few on a GPU (section 4).

`data` is a folder with train.tsv and dev.tsv, whose first line names the columns. Fields of TSV are never quoted.

Arguments: `init=PATH` a pretrained BERT of ours or a published file (must be given), `data`, `pair`, `first` and
`second` columns of the texts, `label` that of the class, `variant`, `length` in tokens (longer texts are cut), `lr`,
`epochs`, `batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, init="", data="data", pair=False, first="sentence1", second="sentence2", label="label", variant="base",
        length=128, lr=2e-5, epochs=3, batch=32, smoke=False,
    )  # fmt: skip
    if not arg.init:
        raise UserError("This config needs a BERT to start from", "Write --config bert_finetune:init=PATH,data=FOLDER")
    texts = dict(
        name="text_pairs", fields=dict(text=(arg.first, arg.second) if arg.pair else arg.first), label_key=arg.label
    )

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.init_from = dict(text=arg.init, pooler=arg.init)
    config.task = dict(name="classify_text", dropout_rate=0.1)
    config.model = dict(name="bert", variant=arg.variant, dropout_rate=0.1, attention_dropout_rate=0.1)
    config.data = dict(
        train=dict(texts, paths=f"{arg.data}/train.tsv"),
        eval=dict(texts, paths=f"{arg.data}/dev.tsv"),
        fields=dict(text=dict(name="token_pair", tokenizer="wordpiece", length=arg.length), label=dict(name="classes")),
    )
    config.optim = dict(
        name="adamw",
        learning_rate=arg.lr,
        weight_decay=0.01,
        # The authors leave out biases and norms alone: embeddings are decayed.
        weight_decay_multipliers=((".*/kernel", 1.0), ("text/.*embedding", 1.0)),
        eps=1e-6,
        clip_norm=1.0,
        schedule=dict(name="linear", warmup_steps=2 if arg.smoke else dict(epochs=arg.epochs / 10)),
    )
    config.evals = dict(val=dict(name="classification"))
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config
