"""A small Transformer that translates the names of emoji, from English into another language, on two cores.

  vit_jax prepare cldr --from node_modules/cldr-annotations-full --language de
  vit_jax train --config cldr_translate --workdir runs/cldr
  vit_jax evaluate --checkpoint runs/cldr
  vit_jax generate --checkpoint runs/cldr --prompt "red heart" --beams 4

Paper: none; the Transformer of 2017 with its optimizer and search on 3,942 pairs of names of the Unicode CLDR, of which
400 others are held out.
Expected: see the table in docs/results.md. Hardware: 2 CPU cores. Time: up to 15 minutes.

Arguments: `language`, `folder`, `steps`, `tokenizer` ("bytes", or a file of `vit_jax prepare tokenizer`), `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, language="de", folder="cldr", steps=3000, tokenizer="bytes", smoke=False)
    tokenizer = dict(name="bytes") if arg.tokenizer == "bytes" else dict(name="bpe", path=arg.tokenizer)
    tokens = dict(name="tokens", tokenizer=tokenizer, length=80, bos=False, long="cut")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else 64
    config.task = dict(name="translate", label_smoothing=0.1)
    config.model = dict(
        name="transformer",
        width=128,
        encoder_depth=2,
        decoder_depth=2,
        mlp_dim=512,
        num_heads=4,
        dropout_rate=0.1,
        max_length=80,
    )
    config.data = dict(
        train=dict(name="text_pairs", paths=f"{arg.folder}/{arg.language}_train.tsv"),
        eval=dict(name="text_pairs", paths=f"{arg.folder}/{arg.language}_test.tsv"),
        fields=dict(source=tokens, target=tokens),
        eval_batch_size=8 if arg.smoke else 100,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3,
        schedule=dict(name="rsqrt", warmup_steps=5 if arg.smoke else 200, timescale=200),
        weight_decay=0.0,
        b1=0.9,
        b2=0.98,
        eps=1e-9,
    )
    config.evals = dict(test=dict(name="translation"), greedy=dict(name="translation", output="greedy"))
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=10 if arg.smoke else 100, keep=5)
    return config
