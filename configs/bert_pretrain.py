"""BERT on pairs of stretches of text: base or large.

  vit_jax train --config bert_pretrain:data=texts/*.txt --workdir runs/bert-128
  vit_jax train --config bert_pretrain:data=texts/*.txt,length=512,init=runs/bert-128 --workdir runs/bert

Paper: "BERT: pre-training of deep bidirectional Transformers for language understanding" (arXiv:1810.04805), section
3.1 and appendix A.2: 15 % of the tokens hidden, half of the pairs next ones; AdamW (Adam with decay of the weights
themselves, as in the authors' code) with learning rate 1e-4, decay 0.01, beta 0.9, 0.999 and epsilon 1e-6, batch 256,
1,000,000 steps, 10,000 of warmup, linear; dropout 0.1; 128 tokens for 90 % of the steps, then 512.
Expected: fine-tuned, GLUE's average over eight tasks of 79.6 (base) and 82.1 (large), table 1.
Hardware and time: 16 TPU chips (base) or 64 (large), 4 days each (appendix A.2).

`data` stands for the paper's BooksCorpus and English Wikipedia, 3.3 billion words, which cannot be had from here: text
files with a document each and a sentence on each line, or JSONL with such texts. With sentences=stops they are cut at
full stops. The second run begins with the parameters of the first, whose positions are 512 from the start, at the
learning rate that the first ended with.

Where this differs, without a known effect:
- precision: bfloat16 with norms, softmax and parameters in float32; the authors' code is float32.
- optimizer: the second run starts Adam's averages anew.
- pairs: a stretch starts with every sentence, and none has fewer than two, see `vit_jax.data.sentence_pairs`.

Arguments: `data`, `eval` held-out files (the data's own without), `variant`, `length`, `init`, `sentences`, `batch`,
`smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.training.config import parse_arg

_STEPS, _PEAK, _SHORT = 1_000_000, 1e-4, 0.9


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, data="texts/*.txt", eval="", variant="base", length=128, init="", sentences="lines", batch=256, smoke=False
    )
    if arg.length not in (128, 512):
        raise UserError(f"The paper has no length {arg.length}", "Write length=128, or then length=512,init=PATH")
    first = arg.length == 128
    # The straight line from the peak to 0 is cut in two where the length changes.
    middle = _PEAK * (1 - _SHORT)

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else round(_STEPS * (_SHORT if first else 1 - _SHORT))
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="bert", mask_share=0.15, predictions=20 if first else 77)
    config.model = dict(
        name="bert", variant=arg.variant, dropout_rate=0.1, attention_dropout_rate=0.1, dtype="bfloat16"
    )
    config.data = dict(
        train=dict(name="documents", paths=arg.data),
        eval=dict(name="documents", paths=arg.eval or arg.data),
        fields=dict(
            text=dict(
                name="sentence_pairs",
                tokenizer="wordpiece",
                length=arg.length,
                sentences=arg.sentences,
                copies=10,
                short=0.1,
            ),
            label=dict(name="classes"),
        ),
        eval_batch_size=8 if arg.smoke else 256,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=_PEAK if first else middle,
        weight_decay=0.01,
        # The authors leave out biases and norms alone: embeddings are decayed.
        weight_decay_multipliers=((".*/kernel", 1.0), ("text/.*embedding", 1.0)),
        eps=1e-6,
        clip_norm=1.0,
        schedule=dict(
            name="linear", warmup_steps=(5 if arg.smoke else 10_000) if first else 0, end=middle if first else 0.0
        ),
    )
    config.init_from = arg.init or None
    config.evals = dict(val=dict(name="masked_lm"))
    config.eval_every = 10 if arg.smoke else 50_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=10 if arg.smoke else 5000, keep=1)
    return config
