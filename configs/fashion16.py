"""Image tokenizers and generators in small: garments of 16x16 pixels, each in minutes on two cores.

  vit_jax train --config fashion16:model=judge --workdir runs/judge
  vit_jax train --config fashion16:model=vq --workdir runs/vq
  vit_jax train --config fashion16:model=raster,tokenizer=runs/vq --workdir runs/raster

Paper: none; in small VQ-VAE (arXiv:1711.00937), latent diffusion's autoencoder (arXiv:2112.10752), VQGAN's transformer
(arXiv:2012.09841), MaskGIT (arXiv:2202.04200), MAR (arXiv:2406.11838), VAR (arXiv:2404.02905) and HART
(arXiv:2410.10812). Data: Fashion-MNIST, reduced to 16x16 pixels by areas. One judge says what all images are worth.
Expected: the table that `benchmarks/image_generation.py` makes. Hardware: 2 CPU cores. Time: at most 10 minutes each.

Arguments, `model`:
- "judge" is the classifier by which images are measured: three convolutions, 64 features;
- tokenizers: "vq" has 8x8 tokens of `codes` codes, "kl" 8x8 times 4 numbers, "multiscale" maps of 1, 2, 4 and 8 to a
  side, "hybrid" the same and what they leave;
- generators: "raster" and "maskgit" of vq's tokens, "mar" of kl's numbers, "var" of multiscale's maps, "hart" of
  hybrid's.
`tokenizer=RUN` for a generator, `steps`, `seed`, `root=FOLDER` of the IDX files, `smoke` for a run of a few seconds on
scikit-learn's digits, which need no package.
"""

from typing import Any

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.checkpoints.source import open_source
from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.naming import nearest
from vit_jax.training.config import parse_arg

SIZE = 16
# Of each model its steps; of a generator its tokenizer too.
JUDGES = {"judge": 3000}
TOKENIZERS = {"vq": 2000, "kl": 2000, "multiscale": 2000, "hybrid": 2000}
GENERATORS = {
    "raster": ("vq", 2400),
    "maskgit": ("vq", 2400),
    "mar": ("kl", 2400),
    "var": ("multiscale", 2400),
    "hart": ("hybrid", 2400),
}
# What a generator's loss takes of an image, which is computed once.
TAKEN = {"mar": "moments", "hart": "latents"}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, model="judge", tokenizer="", codes=128, steps=0, seed=0, root=FASHION_MNIST, smoke=False
    )  # fmt: skip
    lengths = JUDGES | TOKENIZERS | {name: steps for name, (_, steps) in GENERATORS.items()}
    if arg.model not in lengths:
        raise UserError(f"There is no model {arg.model!r} here", nearest(arg.model, lengths))
    steps = arg.steps or (4 if arg.smoke else lengths[arg.model])
    data = dict(name="digits", per_class=8) if arg.smoke else dict(name="idx", root=arg.root)

    config = ConfigDict()
    config.seed = arg.seed
    config.steps = steps
    config.batch_size = 8 if arg.smoke else 64
    config.data = dict(
        image_size=(SIZE, SIZE),
        train=dict(data, split="train"),
        eval=dict(data, split="test"),
        # The same view each time, so that the tokens of an image are computed once.
        transform=dict(name="supervised", crop="none", flip=False),
        eval_batch_size=None if arg.smoke else 250,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.0,
        b2=0.99,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=max(1, steps // 20)),
    )
    config.evals = dict()
    if arg.model in JUDGES:
        _judge(config)
    elif arg.model in TOKENIZERS:
        config.model, config.task = _tokenizer(arg.model, arg)
        config.evals.pixels = dict(name="reconstruction")
        if arg.model != "kl":
            scales = () if arg.model == "vq" else (1, 4, 16, 64)
            config.evals.codes = dict(name="codebook", vocab_size=arg.codes, scales=scales)
        if arg.model == "hybrid":
            config.evals.discrete = dict(name="reconstruction", of="discrete_reconstruction")
    else:
        section = _tokenizer(GENERATORS[arg.model][0], arg)[0]
        if arg.tokenizer:
            stored = open_source(arg.tokenizer).metadata["model"]
            section = dict(name=stored["name"], **stored["kwargs"])
            config.init_from = dict(tokenizer=arg.tokenizer)
        config.model, config.task = _generator(arg.model, section, arg.smoke)
        config.optim.update(frozen=("tokenizer/.*",), weight_decay=0.05)
        config.ema_decay = 0.995
        config.precompute = dict(output=TAKEN.get(arg.model, "indices"))
        if arg.model in ("raster", "var", "hart"):
            config.evals.bits = dict(name="bits")
    config.eval_every = None
    config.log_every = 2 if arg.smoke else 50
    config.checkpoint = dict(every=None if arg.smoke else max(1, steps // 4), keep=1)
    return config


def _judge(config: ConfigDict) -> None:
    config.batch_size *= 2
    config.task = dict(name="classify")
    config.model = dict(name="small_conv", widths=(32, 64, 64))
    config.evals.val = dict(name="classification")


def _tokenizer(name: str, arg: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model and the task of a tokenizer."""
    coder = dict(width=8 if arg.smoke else 64, depth=1, factor=2)
    codes = dict(decay=0.99, restart_below=1.0)
    if name == "kl":
        return dict(name="vae", **coder, latent_width=4, variance=0.01), dict(name="vae", beta=1.0)
    if name == "vq":
        model = dict(name="vqvae", **coder, latent_width=16, vocab_size=arg.codes, **codes)
    else:
        model = dict(
            name="hart_tokenizer" if name == "hybrid" else "var_tokenizer", scales=(1, 2, 4, 8), vocab_size=arg.codes,
            latent_width=16, channels=coder["width"] // 2,
            multipliers=(1, 2), num_blocks=1, attention_levels=(), middle_attends=False, groups=4, phis=2, **codes,
        )  # fmt: skip
    return model, dict(name="vqvae", variance=0.1)


def _generator(name: str, tokenizer: dict[str, Any], smoke: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model and the task of a generator."""
    size = dict(width=24, depth=1, num_heads=2) if smoke else dict(width=96, depth=3, num_heads=4)
    if name == "raster":
        return dict(name="token_gpt", **size, init_stddev=0.1), dict(name="autoregressive", tokenizer=tokenizer)
    if name == "maskgit":
        return dict(name="maskgit", **size, init_stddev=0.1), dict(name="maskgit", tokenizer=tokenizer)
    if name == "var":
        return dict(name="var", **size, gate_init=1e-3, drop_path_rate=0.0), dict(name="var", tokenizer=tokenizer)
    if name == "hart":
        size |= dict(head_width=size["width"], head_depth=1 if smoke else 3)
        return dict(name="hart", **size), dict(name="hart", tokenizer=tokenizer)
    size |= dict(depth=1 if smoke else 2, head_width=size["width"], head_depth=1 if smoke else 3)
    return dict(name="mar", **size, buffer=8), dict(name="mar", tokenizer=tokenizer)
