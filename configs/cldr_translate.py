"""A small Transformer that translates the names of emoji out of English, on two cores.

  vit_jax prepare cldr --from cldr-annotations-full cldr-annotations-derived-full --language de --output cldr
  vit_jax prepare tokenizer --kind bpe --size 1024 --output cldr/de_bpe_1024.json cldr/de_train.tsv
  vit_jax train --config cldr_translate:data=cldr --workdir runs/cldr
  vit_jax evaluate --checkpoint runs/cldr --average 5
  vit_jax generate --checkpoint runs/cldr --prompt "red heart" --beams 4

Paper: none; "Attention is all you need" (arXiv:1706.03762) at the smallest size that shows it: two blocks of width 128
on either side, 3,942 pairs of names, its optimizer, its schedule and its search.
Expected: see the table of the experiments on text in the docs. Hardware: 2 CPU cores. Time: 7 minutes.

It is tested on 400 other names: those of the form "name: skin tone", and the others. `greedy` is the same search with
one beam.

Arguments: `data` folder that `vit_jax prepare cldr` wrote, `language`, `steps`, `seed`, `smoke` for a run of a minute.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, data="cldr", language="de", steps=700, seed=0, smoke=False)
    steps = 40 if arg.smoke else arg.steps
    warmup = max(1, steps // 10)
    tokenizer = dict(name="bpe", path=f"{arg.data}/{arg.language}_bpe_1024.json")
    tokens = dict(name="tokens", tokenizer=tokenizer, length=32, bos=False, long="cut")
    files = {part: f"{arg.data}/{arg.language}_{part}.tsv" for part in ("train", "test_skin_tone", "test_other")}
    tests = {part: dict(name="text_pairs", paths=files[f"test_{part}"]) for part in ("skin_tone", "other")}

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 128
    config.task = dict(name="translate", label_smoothing=0.1)
    config.model = dict(
        name="transformer",
        width=128,
        encoder_depth=2,
        decoder_depth=2,
        mlp_dim=512,
        num_heads=4,
        dropout_rate=0.1,
        max_length=32,
    )
    config.data = dict(
        train=dict(name="text_pairs", paths=files["train"]),
        fields=dict(source=tokens, target=tokens),
        eval_batch_size=128,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=3e-3,
        schedule=dict(name="rsqrt", warmup_steps=warmup, timescale=warmup),
        weight_decay=0.0,
        b1=0.9,
        b2=0.98,
        eps=1e-9,
    )
    config.evals = dict(
        **{name: dict(name="translation", source=source) for name, source in tests.items()},
        **{f"{n}_greedy": dict(name="translation", source=s, output="greedy") for n, s in tests.items()},
    )
    config.eval_every = None
    config.log_every = 10 if arg.smoke else 50
    config.checkpoint = dict(every=20 if arg.smoke else 100, keep=5)
    return config
