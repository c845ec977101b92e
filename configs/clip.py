"""CLIP on images with texts, from scratch: ViT-B/32, B/16 or L/14.

  vit_jax train --config clip:data='shards/{00000..00999}.tar' --workdir runs/clip-b32
  vit_jax train --config clip:variant=L/14,data=pairs.jsonl --workdir runs/clip-l14
  vit_jax train --config clip:variant=L/14@336,init=runs/clip-l14,lr=2e-5,epochs=1 --workdir runs/clip-l14-336

Paper: "Learning transferable visual models from natural language supervision" (arXiv:2103.00020), section 2.5 and the
tables of appendix F: 400 million pairs, batch 32,768, 32 epochs, AdamW with 5e-4 (L/14 4e-4), decay 0.2 on all that is
neither gain nor bias, beta2 0.98 and epsilon 1e-6 (ResNets 0.999 and 1e-8), cosine after 2,000 steps of warmup,
temperature 0.07 at first and the logits' factor at most 100, one random square crop and no other augmentation.
Expected: zero-shot accuracy on ImageNet with 80 templates 63.2 for B/32, 68.6 for B/16, 75.3 for L/14, and 76.2 after
one more epoch at 336 pixels.
Hardware and time: the largest ViT took 12 days on 256 V100 (section 2.5).

The text tower is trained from scratch too, as the paper's is. Where a lecture says that it is pretrained, that is LiT's
or VisionTextDualEncoder's: `text=PATH` starts from a BERT's weights instead, with its tokens.

Where this differs, without a known effect:
- factor: it is limited where it is used, not set back after each step.
- precision: bfloat16 with norms, softmax and parameters in float32, theirs float16 with a scaled loss.
- data: theirs was never published.

`data` is a pattern of tar shards (.jpg or .png with .txt or .json), or a manifest .jsonl or .csv of images and texts;
`vit_jax prepare pairs` makes and checks them. `held_out` is another, for retrieval; `imagenet` measures zero-shot
accuracy on its validation images, of TFDS.

Arguments: `variant`, `data`, `held_out`, `imagenet`, `text`, `init` (a CLIP to go on from), `lr`, `epochs`, `batch`,
`smoke`.
"""

from ml_collections import ConfigDict

from vit_jax.training.config import parse_arg

MEAN, STD = (122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232)  # of the pixels of their data, 0 to 255
_SIZES = {"L/14@336": 336, "RN50x4": 288, "RN50x16": 384, "RN50x64": 448}


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, variant="B/32", data="shards/*.tar", held_out="", imagenet=False, text="", init="", lr=0.0,
        epochs=32, batch=32_768, smoke=False,
    )  # fmt: skip
    size, resnet = _SIZES.get(arg.variant, 224), arg.variant.startswith("RN")
    pairs = _pairs(arg.data)

    config = ConfigDict()
    config.seed = 0
    config.steps = 20 if arg.smoke else dict(epochs=arg.epochs)
    config.batch_size = 8 if arg.smoke else arg.batch
    config.task = dict(name="clip")
    config.model = dict(name="clip", variant=arg.variant, dtype="bfloat16")
    if not resnet:
        config.model.update(scan=True, remat="full", posemb_resize="bicubic")
    if arg.text:
        config.model.text = dict(name="bert", variant="base")
        config.init_from = dict(text=arg.text, pooler=arg.text)
    elif arg.init:
        config.init_from = arg.init
    tokens = dict(tokenizer="wordpiece") if arg.text else dict(tokenizer="clip_bpe")
    config.data = dict(
        image_size=(size, size),
        preprocess=dict(resize="short_side", resize_to=size, interpolation="bicubic", mean=MEAN, std=STD),
        train=pairs,
        eval=_pairs(arg.held_out or arg.data),
        fields=dict(image=dict(name="image"), text=dict(name="tokens", length=77, long="cut", **tokens)),
        transform=dict(
            name="supervised",
            sampling="largest",
            area=(1.0, 1.0),
            aspect=(1.0, 1.0),
            interpolation="bicubic",
            flip=False,
        ),
        eval_batch_size=8 if arg.smoke else 1024,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=arg.lr or (4e-4 if arg.variant == "L/14" else 5e-4),
        weight_decay=0.2,
        weight_decay_multipliers=((".*/kernel", 1.0), (".*embedding", 1.0), (".*/cls", 1.0)),
        b2=0.999 if resnet else 0.98,
        eps=1e-8 if resnet else 1e-6,
        schedule=dict(name="cosine", warmup_steps=5 if arg.smoke else 2000),
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
