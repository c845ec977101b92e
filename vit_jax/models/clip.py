"""CLIP and its published sizes: Radford et al., "Learning transferable visual models from natural language supervision"
(arXiv:2103.00020).

Two towers trained from scratch (section 2.5). The image tower is a ViT with a norm before its first block and patches
embedded without a bias, whose features are its class token; the text tower a Transformer whose tokens see those before
them, read at the end token. All blocks have QuickGELU and an epsilon of 1e-5; neither projection has a bias.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from vit_jax.models import clip_resnet, text_tower, vit
from vit_jax.models.two_towers import image_model, run_as, text_model, told
from vit_jax.nn.style import EXECUTION_KEYS
from vit_jax.nn.two_towers import Projection, TwoTowers
from vit_jax.ranges import Count, Natural, Positive

_VOCABULARY = 49408


@dataclasses.dataclass(frozen=True)
class Variant:
    """What goes with an image tower (tables 19 and 20): the width of the space, and the text tower's size."""

    embed_dim: int
    text_width: int
    text_heads: int


_BASE = Variant(512, 512, 8)
# By the name of the image tower. "@336" says nothing about parameters except for how many positions there are.
VARIANTS = {
    "B/32": _BASE,
    "B/16": _BASE,
    "L/14": Variant(768, 768, 12),
    "L/14@336": Variant(768, 768, 12),
    "RN50": Variant(1024, 512, 8),
    "RN101": Variant(512, 512, 8),
    "RN50x4": Variant(640, 640, 10),
    "RN50x16": Variant(768, 768, 12),
    "RN50x64": Variant(1024, 1024, 16),
}


class CLIP(TwoTowers):
    """`TwoTowers` that start as OpenAI's code starts them."""

    def redrawn(self, params: PyTree[Array], rng: PRNGKeyArray) -> PyTree[Array]:
        """Parameters with the initial values of `clip/model.py`; an image tower other than a ViT and a text tower other
        than CLIP's keep theirs."""
        params = super().redrawn(params, rng)
        rules = []
        if isinstance(self.image_tower, vit.ViT):
            rules += _image_rules(self.encoder.width, self.encoder.style.mlp_dim)
        if isinstance(self.text_tower, text_tower.TextTower):
            rules += _text_rules(self.text.width, self.text.style.mlp_dim, self.text.depth)

        def redraw(path: tuple[jax.tree_util.DictKey, ...], leaf: Array) -> Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            rule = next((draw for pattern, draw in rules if re.fullmatch(pattern, name)), None)
            # By name, so that what one parameter gets does not depend on which others there are.
            return leaf if rule is None else rule(jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF), leaf)

        return jax.tree.map_with_path(redraw, params)


_Draw = Callable[[PRNGKeyArray, Array], Array]


def _normal(stddev: float) -> _Draw:
    return lambda key, leaf: stddev * jax.random.normal(key, leaf.shape)


def _uniform(bound: float) -> _Draw:
    return lambda key, leaf: jax.random.uniform(key, leaf.shape, minval=-bound, maxval=bound)


def _zeros(key: PRNGKeyArray, leaf: Array) -> Array:
    del key
    return jnp.zeros_like(leaf)


def _image_rules(width: int, mlp_dim: int) -> list[tuple[str, _Draw]]:
    """Learned tokens, positions and the projection are normal; the rest is what PyTorch's layers start with."""
    return [
        (r"encoder/(cls|pos_embedding|cls_pos_embedding)", _normal(width**-0.5)),
        (r"image_projection/kernel", _normal(width**-0.5)),
        (r"encoder/embedding/kernel", lambda key, leaf: _uniform((leaf.size / leaf.shape[-1]) ** -0.5)(key, leaf)),
        # Queries, keys and values are one matrix there, drawn by Glorot and Bengio's rule.
        (r"encoder/block_\d+/attention/(query|key|value)/kernel", _uniform((6 / (4 * width)) ** 0.5)),
        (r"encoder/block_\d+/attention/out/kernel", _uniform(width**-0.5)),
        (r"encoder/block_\d+/attention/.*/bias", _zeros),
        (r"encoder/block_\d+/mlp/fc1/(kernel|bias)", _uniform(width**-0.5)),
        (r"encoder/block_\d+/mlp/fc2/(kernel|bias)", _uniform(mlp_dim**-0.5)),
    ]


def _text_rules(width: int, mlp_dim: int, depth: int) -> list[tuple[str, _Draw]]:
    """As `initialize_parameters` there: what ends a residual branch is less in a deeper model."""
    ends = width**-0.5 * (2 * max(depth, 1)) ** -0.5
    return [
        (r"text/embedding", _normal(0.02)),
        (r"text/pos_embedding", _normal(0.01)),
        (r"text_projection/kernel", _normal(width**-0.5)),
        (r"text/block_\d+/attention/(query|key|value)/kernel", _normal(width**-0.5)),
        (r"text/block_\d+/attention/out/kernel", _normal(ends)),
        (r"text/block_\d+/attention/.*/bias", _zeros),
        (r"text/block_\d+/mlp/fc1/kernel", _normal((2 * width) ** -0.5)),
        (r"text/block_\d+/mlp/fc2/kernel", _normal(ends)),
        (r"text/block_\d+/mlp/fc1/bias", _uniform(width**-0.5)),
        (r"text/block_\d+/mlp/fc2/bias", _uniform(mlp_dim**-0.5)),
    ]


def build(
    *,
    variant: str = "B/32",
    vocab_size: Count = _VOCABULARY,
    end_id: Natural | None = None,
    embed_dim: Count | None = None,
    text: Mapping[str, Any] | None = None,
    project_image: Projection | None = None,
    project_text: Projection = "plain",
    temperature: Positive = 0.07,
    max_scale: Positive | None = 100.0,
    **image: Any,
) -> CLIP:
    """A CLIP of a published size, from values that JSON can hold.

    Args:
        variant: see `VARIANTS`; for an image tower of another size, as `vit_jax.models.vit` names it, the rest is B's.
        vocab_size: number of token ids.
        end_id: id of the token that ends a text; None for the largest of a row, which it is in CLIP's vocabulary.
        embed_dim: width of the space, instead of the variant's.
        text: keys of the text tower that are not to be the variant's, see `vit_jax.models.text_tower.build`; or with a
            `name` the section of another text model. CLIP's own is trained from scratch.
        project_image: see `TwoTowers`, like `project_text`, `temperature` and `max_scale`; None for "plain", or "none"
            for a ResNet, whose attention pooling gives as many features as the space is wide.
        image: other arguments of the image tower, see `vit_jax.models.vit.ViT.from_variant`, and for a ResNet
            `vit_jax.models.clip_resnet.ClipResNet.from_variant`; those of `Execution` and `dtype` are the text tower's
            too.

    Raises:
        UserError: for an unknown variant, value or argument.
    """
    size = VARIANTS.get(variant, _BASE)
    embed_dim = embed_dim or size.embed_dim
    if project_image is None:
        project_image = "none" if variant in clip_resnet.VARIANTS else "plain"
    towers = (
        image_model(_image_section(variant, image, embed_dim)),
        text_model(_text_section(size, image, text), vocab_size, end_id),
    )
    return CLIP(*towers, embed_dim, project_image, project_text, temperature, max_scale)


def _image_section(variant: str, image: Mapping[str, Any], embed_dim: int) -> dict[str, Any]:
    if variant in clip_resnet.VARIANTS:
        own = {name: value for name, value in image.items() if name not in EXECUTION_KEYS}
        return {"name": "clip_resnet", "variant": variant, "features": embed_dim, **own}
    own = {"patch_bias": False, "embedding_norm": True, **text_tower.clip_style(image)}
    return {"name": "vit", "variant": variant.partition("@")[0], **own, **image}


def _text_section(size: Variant, image: Mapping[str, Any], text: Mapping[str, Any] | None) -> dict[str, Any]:
    if text and "name" in text:
        return run_as(image, text)
    own = {"width": size.text_width, "num_heads": size.text_heads}
    if text and "width" in text:  # heads of a width of one's own, as wide as CLIP's where that divides
        own["num_heads"] = max(text["width"] // 64, 1)
    return run_as(image, {"name": "text_tower", **own, **(text or {})})


def downstream(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the image tower alone."""
    own = {name: value for name, value in kwargs.items() if name not in _OWN_KEYS}
    variant = kwargs.get("variant", "B/32")
    return _image_section(variant, own, kwargs.get("embed_dim") or VARIANTS.get(variant, _BASE).embed_dim)


def texts(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the text tower alone."""
    size = VARIANTS.get(kwargs.get("variant", "B/32"), _BASE)
    return told(_text_section(size, kwargs, kwargs.get("text")), {"vocab_size": _VOCABULARY, **kwargs})


_OWN_KEYS = tuple(name for name in build.__annotations__ if name not in ("image", "return"))
_GIVEN = (*_OWN_KEYS, "num_classes", "features")
KEYS = (*_OWN_KEYS, *(k for k in dict.fromkeys((*vit.KEYS, *clip_resnet.KEYS)) if k not in _GIVEN))  # of `build`
