"""GPT-2, and GPT-3 of its sizes up to what the hardware holds, on text of one's own.

  vit_jax train --config gpt2:texts=texts/*.jsonl,held_out=held_out.jsonl --workdir runs/gpt2
  vit_jax plan --config gpt2:variant=gpt2-xl --topology v5e:4x4
  vit_jax generate --checkpoint runs/gpt2 --prompt "In a shocking finding" --top-k 40 --samples 4

Paper: "Language models are unsupervised multitask learners" (2019): 1024 tokens, byte pairs with 50,257 tokens, batch
512, norms before the blocks and after the last, residual kernels that start smaller (sections 2.2 and 2.3). WebText, 40
GB behind links of Reddit, is not public: the figures below are of it, and no run here has shown them.
Expected, without training on any of these sets (table 3), small / medium / large / XL, perplexity but for enwik8, in
bits per byte, and LAMBADA's accuracy: LAMBADA 35.13 / 15.60 / 10.87 / 8.63 and 45.99% / 55.48% / 60.12% / 63.24%,
WikiText-2 29.41 / 22.76 / 19.93 / 18.34, WikiText-103 37.50 / 26.37 / 22.05 / 17.48, enwik8 1.16 / 1.01 / 0.97 / 0.93.
Hardware and time: the paper says neither.

What the paper leaves open is as in "Language models are few-shot learners" (arXiv:2005.14165), appendix B and table
2.1: AdamW with beta 0.9, 0.95, decay 0.1 on kernels, gradients clipped at 1, 375M tokens of warmup, cosine to a tenth,
300B tokens, the learning rate by the size. No dropout: no text comes back often enough.
Where this differs, without a known effect:
- precision: bfloat16 with norms, softmax and parameters in float32.

Arguments: `variant`, see `vit_jax.models.gpt`; `texts` and `held_out`, text files or JSONL; `batch`, `steps`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.models.gpt import VARIANTS
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

# By width: table 2.1 of GPT-3, whose sizes up to XL are those of GPT-2 or nearly so.
_RATES = {768: 6e-4, 1024: 3e-4, 1280: 2.5e-4, 1536: 2.5e-4, 1600: 2e-4, 2048: 2e-4, 2560: 1.6e-4, 4096: 1.2e-4,
          5120: 1e-4, 12288: 0.6e-4}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, variant="gpt2-small", texts="texts/*.jsonl", held_out="held_out.jsonl", batch=512, steps=572_000,
        smoke=False,
    )  # fmt: skip
    if arg.variant not in VARIANTS:
        raise UserError(f"There is no GPT '{arg.variant}'", nearest(arg.variant, VARIANTS))
    size, steps = VARIANTS[arg.variant], 20 if arg.smoke else arg.steps
    batch = 2 if arg.smoke else arg.batch

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = batch
    config.task = dict(name="language_model")
    config.model = dict(
        name="gpt",
        variant=arg.variant,
        dtype="bfloat16",
        scan=True,
        remat="elementwise",
    )
    config.data = dict(
        train=dict(name="documents", paths=arg.texts),
        eval=dict(name="documents", paths=arg.held_out),
        fields=dict(text=dict(name="packed", tokenizer="gpt2_bpe", length=size.max_length)),
        eval_batch_size=batch,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=_RATES[size.width],
        weight_decay=0.1,
        b2=0.95,
        clip_norm=1.0,
        schedule=dict(
            name="cosine",
            warmup_steps=min(375_000_000 // (batch * size.max_length), steps // 10),
            end=_RATES[size.width] / 10,
        ),
    )
    config.evals = dict(val=dict(name="perplexity"))
    config.eval_every = None if arg.smoke else 5000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5000, keep=1)
    return config
