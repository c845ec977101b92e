"""SigLIP on images with texts, from scratch.

  vit_jax train --config siglip:data='shards/{00000..00999}.tar',vocabulary=c4_en.model --workdir runs/siglip-b16

Paper: "Sigmoid loss for language image pre-training" (arXiv:2303.15343): t' = log 10 and b = -10 at first (algorithm
1); a batch of 32,768 is enough (abstract, section 4.2); texts of 64 tokens of a SentencePiece vocabulary of 32,000. The
learning rate 1e-3, the cosine with 3 % of warmup and the gradient's norm of at most 1 are those of the authors'
siglip_lit_coco.py. beta2 0.95, which makes training stable, and the decay of 1e-4 a step (not multiplied by the rate,
which is 0.1 here) are those of a replication by others, which gives the paper as its source (siglip_replication.py of
github.com/ZitengWangNYU/big_vision); for a batch of 32,768 it has 3e-4 and 3e-5. The paper's own text was not at hand.
Expected: not known without the authors' data, which was never published (WebLI).
Hardware and time: four TPUv4 train a CLIP of base size at a batch of 4,096 (abstract); the time is not known.

SigLIP 2 (arXiv:2502.14786) of fixed resolution has the same architecture with a vocabulary of 256,000 tokens, and other
losses beside this one (captioning, self-distillation, masked prediction), which are not here: its files are read, not
trained.

`data`, `held_out` and `imagenet` are as in `clip`. `vocabulary` is the SentencePiece model.

Arguments: `variant`, `res`, `data`, `held_out`, `imagenet`, `vocabulary`, `examples` seen in all, `batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, variant="B/16", res=224, data="shards/*.tar", held_out="", imagenet=False,
        vocabulary="c4_en.model", examples=3_000_000_000, batch=32_768,
        smoke=False,
    )  # fmt: skip
    pairs = _pairs(arg.data)
    steps = 20 if arg.smoke else arg.examples // arg.batch
    tokenizer = dict(name="sentencepiece", path=arg.vocabulary, canonical=True, pad_with_end=True)

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="siglip")
    config.model = dict(
        name="siglip",
        variant=arg.variant,
        dtype="bfloat16",
        scan=True,
        remat="full",
    )
    config.data = dict(
        image_size=(arg.res, arg.res),
        preprocess=dict(resize="squash", interpolation="bilinear"),
        train=pairs,
        eval=_pairs(arg.held_out or arg.data),
        fields=dict(
            image=dict(name="image"),
            text=dict(name="tokens", length=64, bos=False, long="cut", tokenizer=tokenizer),
        ),
        transform=dict(name="supervised", crop="none", interpolation="bilinear", flip=False),
        eval_batch_size=8 if arg.smoke else 1024,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.1,
        b2=0.95,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(3 * steps // 100, 1)),
    )
    config.evals = {}
    if arg.held_out:
        config.evals.retrieval = dict(name="retrieval")
    if arg.imagenet:
        imagenet = dict(name="tfds", dataset="imagenet2012", split="validation")
        config.evals.zero_shot = dict(name="zero_shot", source=imagenet, names="imagenet")
    config.eval_every = None if arg.smoke else 5000
    config.log_every = 5 if arg.smoke else 50
    config.checkpoint = dict(every=10 if arg.smoke else 1000, keep=1)
    return config


def _pairs(data: str) -> dict[str, str]:
    """The source of a pattern of tar shards, or of a manifest."""
    manifest = data.endswith((".jsonl", ".csv"))
    return dict(name="pairs", path=data) if manifest else dict(name="webdataset", paths=data)
