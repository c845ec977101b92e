"""SigLIP, SigLIP 2 and LiT in the npz files of Google's repositories: `img/` a ViT, `txt/` big_vision's text
Transformer or a BERT, `t` the logarithm of the logits' factor, and with a sigmoid loss `b`, their bias."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.families import google_vit
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, same, shape_of
from vit_jax.checkpoints.parts import google as google_parts
from vit_jax.checkpoints.parts import google_bert as bert_parts
from vit_jax.checkpoints.parts import siglip as siglip_parts
from vit_jax.checkpoints.parts import towers
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models import siglip, two_towers
from vit_jax.models.bert import Bert
from vit_jax.models.text_tower import TextTower
from vit_jax.nn.two_towers import TwoTowers

LIBRARY = "google"
MODELS = "SigLIP, SigLIP 2 and LiT with a text Transformer or a BERT, both towers"
WRITES = ("siglip", "two_towers")
COMPARED = "the same model in transformers' names; plain and stacked blocks only there and back"

_BLOCKS = "Encoder_0/"
_BESIDE = ("opt/*", "chrono/*", "extra/*")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. The image tower is what `google_vit` finds in the tensors under its name."""
    prefix = google_parts.two_towers_in(tensors)
    if prefix is None or f"{prefix}t" not in tensors:
        return None
    own = google_parts.own_config(sidecar)
    of_image = google_vit.describe(
        _under(f"{prefix}img/", tensors), Sidecar({"library_name": "vit_jax", "preprocess": own.object("preprocess")})
    )
    of_text = _under(f"{prefix}txt/", tensors)
    bert = bert_parts.WORDS in of_text
    text, layout = (bert_parts.arguments_of(of_text), {}) if bert else _text(of_text)
    if of_image is None or text is None:
        return None
    vocab_size, image = text.pop("vocab_size"), dict(of_image.kwargs)
    projected = shape_of(tensors, f"{prefix}txt/head/kernel", 2, (0, 0))[1]
    image_dim = image.pop("num_classes")
    embed_dim = projected or image_dim or text["width"]
    if f"{prefix}b" in tensors and image["pooling"] == "map" and projected and not image_dim and not bert:
        model, task, style = "siglip", "siglip", {"activation": "gelu_tanh", "norm_epsilon": 1e-6}
        kwargs = siglip_parts.whole(image, text, style, vocab_size, embed_dim)
    else:
        model, task = "two_towers", "siglip" if f"{prefix}b" in tensors else "clip"
        style = {"mask": None, "pooling": "last", "activation": "gelu_tanh", "norm_epsilon": 1e-6}
        kwargs = {
            "image": {"name": "vit", **image},
            "text": {"name": "bert", **text} if bert else {"name": "text_tower", **text, **style},
            "vocab_size": vocab_size,
            "embed_dim": embed_dim,
            "project_image": "bias" if image_dim else "none",
            "project_text": "bias" if projected else "none",
            "max_scale": None,
        }
        kwargs |= {"logit_bias": -10.0} if f"{prefix}b" in tensors else {}
    kwargs |= own.object("kwargs")
    if bert:
        field, said = bert_parts.field(sidecar, {**text, "vocab_size": vocab_size})
    else:
        field, said = siglip_parts.field(sidecar, vocab_size, text["max_length"], canonical=model == "siglip")
    fields = {"image": {"name": "image"}, "text": field}
    layout |= {"prefix": prefix, "image": {**of_image.layout, "prefix": ""}}
    return Published(model, kwargs, of_image.preprocess, layout, (), said, fields, {"name": task, "kwargs": {}})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`.

    Args:
        layout: `prefix` before all names, the layout of the `image` tower, and `names` and `scanned` of the text tower,
            see `google_parts.block_entries`.
    """
    model = _built(kwargs)
    prefix = layout.get("prefix", "params/")
    image = google_vit.name_map(_image_arguments(model), layout.get("image", {}))
    entries = [
        dataclasses.replace(
            entry,
            ours=tuple(name.replace("head/", "image_projection/", 1) if name.startswith("head/") else name
                       for name in entry.ours),
            theirs=tuple(f"{prefix}img/{name}" for name in entry.theirs),
        )
        for entry in image.entries
    ]  # fmt: skip
    txt = f"{prefix}txt/"
    if isinstance(model.text_tower, Bert):
        entries += bert_parts.entries(model.text_tower, txt)
    else:
        entries += _text_entries(model, txt, layout)
    entries.append(towers.scalar("logit_scale", f"{prefix}t", (1,)))
    if model.project_text != "none":
        entries += google_parts.dense("text_projection", f"{txt}head")
    if model.logit_bias_init is not None:
        entries.append(towers.scalar("logit_bias", f"{prefix}b", (1,)))
    return NameMap(entries, _BESIDE)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`. Google's files have no config; ours keeps what a reader of the file alone could not know."""
    if metadata["model"] is None or metadata["model"]["name"] not in WRITES:
        return None
    model = _built(metadata["model"]["kwargs"])
    tower = model.text_tower
    if isinstance(tower, Bert):
        of_text = bert_parts.fits(tower)
    else:
        of_text = isinstance(tower, TextTower) and (tower.text.mask, tower.pooling) == (None, "last")
        of_text = of_text and towers.is_plain_trunk(tower.text)
    fits = towers.is_plain_vit(model.image_tower) and of_text
    plain = "plain" in (model.project_image, model.project_text)
    return google_parts.config(metadata) if fits and not plain else None


def _built(kwargs: Mapping[str, Any]) -> TwoTowers:
    """The model of either kind: the arguments of one name the sections of its towers."""
    return (two_towers if "image" in kwargs else siglip).build(**kwargs)


def _image_arguments(model: TwoTowers) -> dict[str, Any]:
    """The arguments of the image tower with its projection as a head, which it is there."""
    tower = model.image_tower
    arguments = towers.vit_arguments(tower) | {"representation_size": tower.representation_size}
    return arguments | {"num_classes": model.embed_dim if model.project_image == "bias" else 0}


def _text_entries(model: TwoTowers, txt: str, layout: Mapping[str, Any]) -> list[Entry]:
    """The names of big_vision's text Transformer, which begin with `txt`."""
    text = model.text
    return [
        same("text/embedding", f"{txt}Embed_0/embedding"),
        same("text/pos_embedding", f"{txt}pos_embedding", (-1, text.width), (1, -1, text.width)),
        *google_parts.block_entries(
            "text", txt + _BLOCKS, text.depth, layout.get("names", "linen"), layout.get("scanned", False)
        ),
        *google_parts.norm("text/norm", f"{txt}{_BLOCKS}encoder_norm"),
    ]


def _text(tensors: Shapes) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The size of a text tower, and how its names are; None where it is none."""
    scanned = f"{_BLOCKS}encoderblock/LayerNorm_0/scale" in tensors
    block = f"{_BLOCKS}encoderblock/" if scanned else f"{_BLOCKS}encoderblock_0/"
    found = [kind for kind, layers in google_parts.LAYERS.items() if f"{block}{layers[1]}/query/kernel" in tensors]
    if not found or "pos_embedding" not in tensors:
        return None, {}
    _, heads, _, hidden = google_parts.LAYERS[found[0]]
    vocab_size, width = shape_of(tensors, "Embed_0/embedding", 2)
    numbered = depth_of(tensors, f"{_BLOCKS}encoderblock_{{}}/")
    size = {
        "vocab_size": vocab_size,
        "width": width,
        "depth": shape_of(tensors, f"{block}LayerNorm_0/scale", 2)[0] if scanned else numbered,
        "num_heads": shape_of(tensors, f"{block}{heads}/query/kernel", 3 + scanned)[-2],
        "mlp_dim": shape_of(tensors, f"{block}{hidden}/Dense_0/kernel", 2 + scanned)[-1],
        "max_length": shape_of(tensors, "pos_embedding", 3)[1],
    }
    return size, {"names": found[0], "scanned": scanned}


def _under(prefix: str, tensors: Shapes) -> dict[str, tuple[int, ...]]:
    """The tensors of a tower, by their names in it."""
    return {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}
