"""The Transformer on WMT 2014, English to German: base or big.

  vit_jax prepare tokenizer --kind bpe --size 37000 --output wmt/bpe.json wmt/train.en wmt/train.de
  vit_jax train --config transformer_wmt:folder=wmt --workdir runs/base
  vit_jax evaluate --checkpoint runs/base --average 5
  vit_jax train --config transformer_wmt:folder=wmt,variant=big --workdir runs/big
  vit_jax evaluate --checkpoint runs/big --average 20
  vit_jax generate --checkpoint runs/base --prompt "The cat sat on the mat." --beams 4

The folder has train.tsv and test.tsv (newstest2014), with the columns "source" and "target", and bpe.json.

Paper: "Attention is all you need" (arXiv:1706.03762), section 5: 4.5 million pairs, a shared vocabulary of about 37,000
byte pairs, batches of about 25,000 tokens of each language; Adam with beta 0.9 and 0.98, epsilon 1e-9; the learning
rate d^-0.5 min(step^-0.5, step 4000^-1.5); dropout 0.1 (base) and 0.3 (big); label smoothing 0.1; 100,000 and 300,000
steps. Beams of 4 with alpha 0.6, and the mean of the last 5 (base) or 20 (big) checkpoints, ten minutes apart (section
6.1).
Expected: BLEU 27.3 (base) and 28.4 (big) on newstest2014 (table 2). The paper's BLEU is of tokens as its scripts cut
them, with compounds split; `translation` measures sacreBLEU's 13a, which comes out lower.
Hardware and time: 8 NVIDIA P100, 12 hours (base) and 3.5 days (big), section 5.2.

Where this differs, without a known effect:
- batches: a fixed number of pairs, 896 of at most 96 tokens, about the paper's 25,000 where a sentence has 28 tokens.
  Longer sentences are cut; train/cut counts them.
- rate: the first update has that of step 0, which is 0.
- precision: bfloat16 with norms, softmax and parameters in float32; the authors' was float32.

Arguments: `variant`, `folder`, `tokenizer` ("bytes" needs no file), `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.models.transformer import VARIANTS
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, variant="base", folder="wmt", tokenizer="bpe", smoke=False)
    big, warmup = arg.variant == "big", 4000
    tokenizer = dict(name="bpe", path=f"{arg.folder}/bpe.json") if arg.tokenizer == "bpe" else dict(name=arg.tokenizer)
    tokens = dict(name="tokens", tokenizer=tokenizer, length=96, bos=False, long="cut")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else 300_000 if big else 100_000
    config.batch_size = 8 if arg.smoke else 896
    config.task = dict(name="translate", label_smoothing=0.1)
    config.model = dict(name="transformer", variant=arg.variant, max_length=128, dtype="bfloat16")
    config.data = dict(
        train=dict(name="text_pairs", paths=f"{arg.folder}/train.tsv"),
        eval=dict(name="text_pairs", paths=f"{arg.folder}/test.tsv"),
        fields=dict(source=tokens, target=tokens),
        eval_batch_size=8 if arg.smoke else 128,
    )
    config.optim = dict(
        name="adamw",
        # With timescale = warmup_steps this is d^-0.5 min(step^-0.5, step warmup^-1.5).
        learning_rate=(VARIANTS[arg.variant].width * warmup) ** -0.5,
        schedule=dict(name="rsqrt", warmup_steps=5 if arg.smoke else warmup, timescale=warmup),
        weight_decay=0.0,
        b1=0.9,
        b2=0.98,
        eps=1e-9,
    )
    config.evals = dict(test=dict(name="translation"))
    config.eval_every = None
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=10 if arg.smoke else 1500, keep=20 if big else 5)
    return config
