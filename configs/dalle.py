"""DALL-E's transformer of 12 billion parameters on pairs of images and texts of one's own.

  vit_jax plan --config dalle --topology v5p:16x16x16
  vit_jax train --config dalle:data=pairs.jsonl,tokenizer=runs/dvae --workdir runs/dalle
  vit_jax sample --checkpoint runs/dalle --prompt "an armchair in the shape of an avocado" --count 16 --output grid.png

Paper: "Zero-shot text-to-image generation" (arXiv:2102.12092), section 2 and appendix B: 64 blocks of width 3,968 with
62 heads of 64, 256 tokens of text of a vocabulary of 16,384 and 32x32 tokens of the discrete VAE's 8,192, losses of
texts and images weighted 1/8 and 7/8, AdamW with beta 0.9, 0.96 and decay 0.045, batch 1,024, 430,000 steps. The 250
million pairs that it was trained on, and the model, are not public; only `plan` has seen this config.
Expected: a zero-shot FID of about 28 on MS-COCO, from memory; no run here has shown it. Hardware: 1,024 V100 GPUs in
the paper. Time: not there.

Decay, batch, steps, learning rate and the reach of the square that the last block sees are from memory of the paper.
Where this differs, without a known effect:
- vocabulary: GPT-2's 50,257 byte pairs; the authors' 16,384 are their own. `vit_jax prepare tokenizer --size 16384`
  learns as many of one's own texts.
- learning rate: 4.5e-4 falling on a cosine; the authors halved it in stages by hand.
- precision: bfloat16 with norms, softmax and parameters in float32; the authors kept 16-bit parameters by block.

Arguments: `data` pairs (see the source `pairs`), `tokenizer` a checkpoint of a dVAE, `batch`, `steps`, `sparse=no` for
blocks that see everything before them, `smoke` for small blocks.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, data="pairs.jsonl", tokenizer="runs/dvae", batch=1024, steps=430_000, sparse="yes", smoke=False
    )
    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="dalle", tokenizer=dict(name="dvae", dtype="bfloat16"))
    config.model = dict(name="dalle", sparse=arg.sparse != "no", dtype="bfloat16", scan=True, remat="full")
    if arg.smoke:
        config.model.update(width=64, depth=4, num_heads=4)
    config.init_from = dict(tokenizer=arg.tokenizer)
    config.data = dict(
        image_size=256,
        train=dict(name="pairs", path=arg.data, split="train"),
        eval=dict(name="pairs", path=arg.data, split="test"),
        fields=dict(
            image=dict(name="image"),
            text=dict(name="tokens", tokenizer="gpt2_bpe", length=256, bos=False, eos=False, long="cut"),
        ),
        transform=dict(name="supervised", crop="random", area=(0.6, 1.0), aspect=(1.0, 1.0), flip=False),
        eval_batch_size=64,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=4.5e-4,
        weight_decay=0.045,
        b2=0.96,
        clip_norm=4.0,
        schedule=dict(name="cosine", warmup_steps=min(5000, config.steps // 10)),
        frozen=("tokenizer/.*",),
    )
    config.evals = dict(val=dict(name="bits"))
    config.eval_every = None if arg.smoke else 10_000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5000, keep=1)
    return config
