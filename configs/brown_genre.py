"""The genre of a passage of the Brown corpus, of fifteen: from scratch, by fine-tuning a BERT, or from its features.

  vit_jax train --config brown_genre:data=brown --workdir runs/genre-scratch
  vit_jax train --config brown_genre:data=brown,init=runs/brown-genre-bert --workdir runs/genre
  vit_jax train --config brown_genre:data=brown,init=runs/brown-genre-bert,frozen --workdir runs/genre-features

Paper: none; the two uses of "BERT: pre-training of deep bidirectional Transformers for language understanding"
(arXiv:1810.04805): fine-tuning (section 4) and, `frozen`, features (section 5.3): the last four layers, one after the
other, as means over the tokens of a passage, for nearest neighbours and a linear probe.
Expected: see the table of the experiments on text in the docs. Hardware: 2 CPU cores. Time: 1 minute.

The passages have 80 words or more; those of the test are out of texts of which there is none in training.

Arguments: `data` folder that `vit_jax prepare brown` wrote, `init` a run of `brown_bert:texts=genre_texts` (from
scratch without it), `frozen`, `steps`, `lr` (0: 3e-4 for fine-tuning, the largest that "Well-read students learn
better", arXiv:1908.08962, tries for small BERTs; 1e-3 from scratch or frozen), `seed`, `smoke` for a run of a minute.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, data="brown", init="", frozen=False, steps=600, lr=0.0, seed=0, smoke=False)
    if arg.frozen and not arg.init:
        raise UserError("Features are those of a pretrained model", "Write brown_genre:frozen,init=PATH")
    steps = 20 if arg.smoke else arg.steps
    passages = dict(name="documents", label_key="genre")
    train = dict(passages, paths=f"{arg.data}/genre_train.jsonl")
    last = "last_layers_mean"
    tokenizer = dict(name="bpe", path=f"{arg.data}/bpe_4096.json")

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 16
    config.task = dict(name="classify_text")
    config.model = dict(name="bert", width=128, depth=4, num_heads=4, max_length=64, norm="pre", init_stddev=0.09)
    config.data = dict(
        train=train,
        eval=dict(passages, paths=f"{arg.data}/genre_test.jsonl"),
        fields=dict(text=dict(name="token_pair", tokenizer=tokenizer, length=64), label=dict(name="classes")),
        eval_batch_size=64,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=arg.lr or (3e-4 if arg.init and not arg.frozen else 1e-3),
        weight_decay=0.01,
        clip_norm=1.0,
        schedule=dict(name="linear", warmup_steps=max(1, steps // 10)),
    )
    config.evals = dict(val=dict(name="classification"))
    if arg.init:
        config.init_from = dict(text=arg.init, pooler=arg.init)
    if arg.frozen:
        config.optim.frozen = ("text/.*",)
        config.evals.knn = dict(name="knn", train=train, features=last, k=20)
        # Those of the default that are weaker take up to 2,000 iterations each.
        config.evals.probe = dict(name="linear_probe", train=train, features=last, penalties=(1.0, 0.1, 0.01, 1e-3))
    config.eval_every = None
    config.log_every = max(1, steps // 20)
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
