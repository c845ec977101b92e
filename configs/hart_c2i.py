"""HART on ImageNet-1k: images of classes at 256 pixels, by VAR's trunk and a head that draws what codes leave.

  vit_jax train --config hart_c2i:tokenizer=runs/hart-tokenizer --workdir runs/hart-d20
  vit_jax sample --checkpoint runs/hart-d20 --classes 207,980 --count 16 --output samples.png

Paper: "HART: efficient visual generation with hybrid autoregressive transformer" (arXiv:2410.10812), and its authors'
code (github.com/mit-han-lab/hart): a head of 6 blocks of 1,024 that is drawn from in 8 steps, four draws of noise a
token, remainders divided by 0.6; codes as VAR's in 10 maps, positions by rotation, and of the last map a random half in
training. Their code has configs of images of classes and no Transformer of them: this one is that of texts with norms
modulated by the class, which stands where the text does.
Expected: the paper's abstract says of images of texts FID 5.38 instead of 7.85 for codes alone; of classes nothing is
promised here. `fid` needs the weights of the Inception of 2015; `val` measures the likelihood of the codes.
Hardware and time: not known.

The tokenizer is a `hart_tokenizer`, whose parameters are those of VAR's: a file of either is read.

Where this differs, without a known effect:
- recipe: no code of training is public. Optimizer, batch and epochs are those of VAR-d20's authors, see config `var`.
- losses: codes and what they leave count alike.
- shares: exactly half of the last map; the authors draw a share of at least a half to leave out, and keep 32 tokens or
  more.

Arguments: `d`, the depth, of which the width is 64 times as much; `tokenizer`, a checkpoint or a safetensors file;
`batch`, `epochs`, `smoke` for a tiny one of random tokens.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(arg, d=20, tokenizer="", batch=768, epochs=250, smoke=False)
    rate = 1e-4 * arg.batch / 256
    imagenet = dict(name="tfds", dataset="imagenet2012")

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="hart", tokenizer=dict(name="hart_tokenizer", dtype="bfloat16"), repeats=4)
    config.model = dict(
        name="hart",
        depth=arg.d,
        width=64 * arg.d,
        adaptive=True,
        drop_path_rate=0.1 * arg.d / 24,
        dtype="bfloat16",
        scan=True,
        remat="elementwise",
    )
    if arg.tokenizer:
        config.init_from = dict(tokenizer=arg.tokenizer)
    config.data = dict(
        image_size=(256, 256),
        preprocess=dict(resize="short_side", resize_to=288, interpolation="lanczos"),
        train=dict(imagenet, split="train"),
        eval=dict(imagenet, split="validation"),
        transform=dict(
            name="supervised",
            crop="random",
            sampling="largest",
            area=((8 / 9) ** 2, (8 / 9) ** 2),
            aspect=(1, 1),
            interpolation="bicubic",
            flip=False,
        ),
        eval_batch_size=8 if arg.smoke else 256,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=rate,
        b2=0.95,
        clip_norm=2.0,
        weight_decay=0.05,
        weight_decay_multipliers=(("residual/.*", 0.0), (".*/kernel", 1.0), ("classes", 1.0)),
        schedule=dict(name="lin0", warmup_steps=0 if arg.smoke else dict(epochs=arg.epochs / 50), end=0.1 * rate),
        frozen=() if arg.smoke else ("tokenizer/.*",),
    )
    config.evals = dict(val=dict(name="perplexity"))
    config.eval_every = None if arg.smoke else dict(epochs=10)
    config.log_every = 5 if arg.smoke else 100
    config.checkpoint = dict(every=None if arg.smoke else 5000, keep=1)
    if arg.smoke:
        config.task.tokenizer = dict(
            name="hart_tokenizer", scales=(1, 2, 4), vocab_size=32, latent_width=8, channels=16, groups=4,
            multipliers=(1, 1), num_blocks=1, phis=2,
        )  # fmt: skip
        config.model.update(depth=2, width=32, num_heads=2, head_width=16, head_depth=1)
        config.data = dict(
            image_size=(8, 8), train=dict(name="digits", split="train"), eval=dict(name="digits", split="test"),
            transform=dict(name="supervised", crop="none", flip=False),
        )  # fmt: skip
    return config
