"""LiT: a text tower learns what a locked image tower sees.

  vit_jax train --config lit:init=runs/vit,text=runs/bert,data='shards/*.tar',setting=LU --workdir runs/lit
  vit_jax train --config lit:init=runs/vit,data=pairs.jsonl,loss=siglip --workdir runs/siglit

Paper: "LiT: zero-shot transfer with locked-image text tuning" (arXiv:2111.07991), and the authors' lit_coco.py: batch
4,096, Adam with 1e-3, decay 0.01 a step (not multiplied by the rate, which is 10 here), cosine with 3 % of warmup, the
gradient's norm at most 1, temperature 0.1 at first, texts of 16 tokens of BERT's vocabulary, images without a
projection and texts with one of the same width, flips and RandAugment (2, 10).
Expected: zero-shot accuracy on ImageNet 72.07 of LiT-B16B and 75.68 of LiT-L16L, which are published and saw YFCC100M
and CC12M; that config itself, 5,000 steps on COCO, is the authors' demonstration and has no figure.
Hardware and time: not known.

`setting` is the paper's name of what is done with image and text tower: L is pretrained and locked, U pretrained and
unlocked, u from scratch and unlocked. "Lu" is the paper's LiT; "LU" starts the text tower from BERT (`text`); "UU" and
"uu" train both. What is locked costs no gradient, no slot of the optimizer and no saved activation. With
`--config.precompute.output=features` what it gives is computed once, for a transform without chance.

`data`, `held_out` and `imagenet` are as in `clip`.

Arguments: `setting`, `init` an image model, `text` a BERT, `variant` of the image model, `loss` clip or siglip, `data`,
`held_out`, `imagenet`, `res`, `steps`, `batch`, `smoke`.
"""

from ml_collections import ConfigDict

from vit_jax import UserError
from vit_jax.training.config import parse_arg

SETTINGS = ("Lu", "LU", "UU", "uu")


def get_config(arg: str = "") -> ConfigDict:
    arg = parse_arg(
        arg, setting="Lu", init="", text="", variant="B/16", loss="clip", data="shards/*.tar", held_out="",
        imagenet=False, res=224, steps=5000, batch=4096, smoke=False,
    )  # fmt: skip
    if arg.setting not in SETTINGS:
        raise UserError(f"There is no setting {arg.setting!r} of LiT", f"Use one of {', '.join(SETTINGS)}")
    of_image, of_text = arg.setting
    if (of_image != "u") != bool(arg.init):
        why = (
            "starts its image tower from a pretrained one" if of_image != "u" else "trains its image tower from scratch"
        )
        raise UserError(f"The setting {arg.setting} {why}", "Give init=PATH with L and U, and none with u")
    if (of_text == "U") != bool(arg.text):
        why = "starts its text tower from a BERT" if of_text == "U" else "trains its text tower from scratch"
        raise UserError(f"The setting {arg.setting} {why}", "Give text=PATH with LU and UU, and none with Lu and uu")
    if arg.loss not in ("clip", "siglip"):
        raise UserError(f"There is no loss {arg.loss!r} of LiT", "Use clip or siglip")
    pairs = _pairs(arg.data)
    steps = 20 if arg.smoke else arg.steps

    config = ConfigDict()
    config.seed = 0
    config.steps = steps
    config.batch_size = 8 if arg.smoke else arg.batch
    sources = dict(encoder=arg.init) if arg.init else {}
    sources |= dict(text=arg.text, pooler=arg.text) if arg.text else {}
    if sources:
        config.init_from = sources
    config.task = dict(name=arg.loss)
    config.model = dict(
        name="two_towers",
        image=dict(name="vit", variant=arg.variant, dtype="bfloat16", scan=True),
        text=dict(name="bert", variant="base", dtype="bfloat16", scan=True),
        project_image="none",
        project_text="bias",
        temperature=0.1,
        max_scale=None,
        logit_bias=-2.71 if arg.loss == "siglip" else None,
    )
    config.data = dict(
        image_size=(arg.res, arg.res),
        preprocess=dict(resize="squash", interpolation="bilinear"),
        train=pairs,
        eval=_pairs(arg.held_out or arg.data),
        fields=dict(image=dict(name="image"), text=dict(name="tokens", tokenizer="wordpiece", length=16, long="cut")),
        transform=dict(
            name="supervised",
            crop="none",
            interpolation="bilinear",
            randaugment=dict(layers=2, magnitude=10),
        ),
        eval_batch_size=8 if arg.smoke else 1024,
    )
    config.optim = dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=10.0,
        clip_norm=1.0,
        frozen=("encoder/.*",) if of_image == "L" else (),
        schedule=dict(name="cosine", warmup_steps=2 if arg.smoke else max(3 * steps // 100, 100)),
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
