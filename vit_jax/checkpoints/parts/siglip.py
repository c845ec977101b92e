"""SigLIP's sizes and texts, whichever library keeps them."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.parts import text as text_parts
from vit_jax.checkpoints.parts.towers import NUMBERS, is_plain_trunk
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models.siglip import build, texts
from vit_jax.models.text_tower import TextTower
from vit_jax.models.vit import ViT
from vit_jax.nn.two_towers import TwoTowers

_SIZE = ("width", "depth", "num_heads", "mlp_dim", "max_length")
_GEMMA = 256_000  # tokens of SigLIP 2's vocabulary
# What `vit_jax.models.siglip.build` gives its image tower anyway.
_USUAL = {
    "num_classes": 0, "pooling": "map", "class_token": False, "class_token_posemb": False, "gelu": "tanh",
    "layer_norm_epsilon": 1e-6, "posemb_resize": "align_corners",
}  # fmt: skip
_STYLE = {"activation": "gelu_tanh", "norm_epsilon": 1e-6}


def whole(
    image: Mapping[str, Any], text: Mapping[str, Any], text_style: Mapping[str, Any], vocab_size: int, embed_dim: int
) -> dict[str, Any]:
    """The arguments of the whole model, without those that its variant says.

    Args:
        image: arguments of the image tower, as `vit_jax.models.vit.build` has them.
        text: size of the text tower, see `_SIZE`.
        text_style: its `activation` and `norm_epsilon`.
        vocab_size: number of token ids.
        embed_dim: width of the space.
    """
    kwargs = {name: value for name, value in image.items() if name not in _USUAL or value != _USUAL[name]}
    usual = texts({"variant": image["variant"]})
    of_text = {} if all(usual[name] == text[name] for name in _SIZE) and "width" not in image else dict(text)
    of_text |= {name: value for name, value in text_style.items() if value != _STYLE[name]}
    kwargs |= {"text": of_text} if of_text else {}
    kwargs["vocab_size"] = vocab_size
    if embed_dim != build(**kwargs).embed_dim:
        kwargs["embed_dim"] = embed_dim
    return kwargs


def field(
    sidecar: Sidecar, vocab_size: int, length: int, canonical: bool = True
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The field of texts and what has to be said about it: rows end with at least one end token (big_vision's "sticky"
    one), which SigLIP fills them with; SigLIP 2, whose vocabulary is Gemma's, has padding of its own and reads texts in
    lower case (the authors' SigLIP2_demo.ipynb, and transformers' Siglip2Tokenizer).

    Only a SentencePiece model beside the file is read.

    Args:
        canonical: whether texts lose capitals and punctuation, as SigLIP's do and LiT's do not.
    """
    second = vocab_size == _GEMMA
    kind = {"name": "sentencepiece", "canonical": canonical and not second, "pad_with_end": not second}
    kind |= {"lower_case": True} if second else {}
    files = ("spiece.model", "sentencepiece.model", "tokenizer.model")
    section, _ = text_parts.section_of(sidecar, vocab_size, dict.fromkeys(files, kind))
    if section is None:
        ids = {"name": "ids", "vocab_size": vocab_size, "pad_id": 1, "eos_id": 1}
        return text_parts.tokens_section(ids, length, eos=True), (NUMBERS,)
    return text_parts.tokens_section(section, length, eos=True), ()


def is_siglip(model: TwoTowers, kind: type[ViT] = ViT) -> bool:
    """Whether two towers are what libraries call SigLIP, whatever their sizes, activations and epsilons.

    Args:
        kind: the class of the image tower.
    """
    image, text = model.image_tower, model.text_tower
    if type(image) is not kind or not isinstance(text, TextTower) or model.logit_bias_init is None:
        return False
    encoder = image.encoder
    return (
        image.pooling == "map"
        and encoder.tokens.count == 0
        and encoder.positions.posemb == "learn"
        and not encoder.embedding_norm
        and encoder.patch_bias
        and encoder.stem is None
        and is_plain_trunk(encoder)
        and text.text.mask is None
        and text.pooling == "last"
        and is_plain_trunk(text.text)
        and (model.project_image, model.project_text, model.max_scale) == ("none", "bias", None)
    )
