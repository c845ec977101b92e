"""HART of texts, 0.7B, from 256 to 1,024 pixels.

  vit_jax train --config hart_t2i:data='shards/*.tar',text=clip-l14,tokenizer=runs/hart-tokenizer --workdir runs/hart
  vit_jax train --config hart_t2i:res=512,data='shards/*.tar',text=clip-l14,init=runs/hart --workdir runs/hart-512
  vit_jax sample --checkpoint runs/hart --prompts prompts.txt --guidance 4.5 --output samples.png

Paper: "HART: efficient visual generation with hybrid autoregressive transformer" (arXiv:2410.10812), and its authors'
code (github.com/mit-han-lab/hart): 24 blocks of 1,536 with LLaMA's MLPs, a text before the codes, positions by
rotation in units of the largest map and scales told by sines and cosines, so that a model of 256 pixels goes on at 512
and 1,024; a head of 36.6 million that is drawn from in 8 steps; 14 maps of up to 64x64 at 1,024 pixels.
Expected: reconstruction FID 0.30 (2.11 of codes alone) and FID 5.38 (7.85) on MJHQ-30K at 1,024 pixels, by the
abstract; neither images nor the texts of the training are public, and nothing is promised here.
Hardware and time: not known.

`text` is any text tower of ours or a file of CLIP, frozen: the authors' is Qwen2-1.5B, which is not ours. Vectors of
another can be given with the data: a field `text_embeddings` of kind `encoded` in place of `text`, see the guide.

Where this differs, without a known effect:
- tower: CLIP's of L/14 with 77 tokens in place of Qwen2's 300.
- recipe: no code of training is public. Rate, batch and length are guesses after VAR's.
- losses: codes and what they leave count alike.
- shares: exactly half of the last map; the authors draw a share of at least a half to leave out, and keep 32 tokens or
  more.

Arguments: `res` (256, 512 or 1024), `data` (a pattern of tar shards, or a manifest of images and texts), `held_out`
(another, to measure on), `tokenizer` and `text` (checkpoints or files), `init` (a run at another size to go on from,
which has both of them), `steps`, `batch`, `smoke` for a tiny one of random tokens.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, res=256, data="shards/*.tar", held_out="", tokenizer="", text="", init="", steps=100_000, batch=1024,
        smoke=False,
    )  # fmt: skip
    if arg.res not in (256, 512, 1024):
        raise UserError(f"There are no maps of tokens for {arg.res} pixels", "Use res=256, 512 or 1024")
    rate = 1e-4 * arg.batch / 1024

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else arg.steps
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(
        name="hart",
        tokenizer=dict(name="hart_tokenizer", dtype="bfloat16"),
        text=dict(
            name="text_tower", width=768, depth=12, num_heads=12, max_length=77, activation="quick_gelu",
            norm_epsilon=1e-5, dtype="bfloat16",
        ),
        repeats=4,
    )  # fmt: skip
    config.model = dict(name="hart", width=1536, depth=24, dtype="bfloat16", scan=True, remat="full")
    if arg.init:
        config.init_from = arg.init
    elif arg.tokenizer or arg.text:
        sources = dict(tokenizer=arg.tokenizer, text=arg.text)
        config.init_from = {name: path for name, path in sources.items() if path}
    config.data = dict(
        image_size=(arg.res, arg.res),
        train=_pairs(arg.data),
        eval=_pairs(arg.held_out or arg.data),
        fields=dict(image=dict(name="image"), text=dict(name="tokens", tokenizer="clip_bpe", length=77, long="cut")),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="largest",
            area=(1, 1),
            aspect=(1, 1),
            interpolation="bicubic",
            flip=False,
        ),
        eval_batch_size=8 if arg.smoke else 64,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=rate,
        b2=0.95,
        clip_norm=2.0,
        weight_decay=0.05,
        weight_decay_multipliers=(("residual/.*", 0.0), (".*/kernel", 1.0)),
        schedule=dict(name="lin0", warmup_steps=0 if arg.smoke else arg.steps // 50, end=0.1 * rate),
        frozen=() if arg.smoke else ("tokenizer/.*", "text/.*"),
    )
    config.evals = dict(val=dict(name="perplexity"))
    config.eval_every = None if arg.smoke else 5000
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5000, keep=1)
    if arg.smoke:
        config.data.image_size = (8, 8)
        config.task.tokenizer = dict(
            name="hart_tokenizer", scales=(1, 2, 4), vocab_size=32, latent_width=8, channels=16, groups=4,
            multipliers=(1, 1), num_blocks=1, phis=2,
        )  # fmt: skip
        config.task.text = dict(name="text_tower", width=16, depth=1, num_heads=2, max_length=77)
        config.model.update(depth=2, width=32, num_heads=2, head_width=16, head_depth=1)
    return config


def _pairs(data: str) -> dict[str, str]:
    """The source of a pattern of tar shards, or of a manifest."""
    manifest = data.endswith((".jsonl", ".csv"))
    return dict(name="pairs", path=data) if manifest else dict(name="webdataset", paths=data)
