"""SigLIP and SigLIP 2: Zhai et al., "Sigmoid loss for language image pre-training"
(arXiv:2303.15343), and Tschannen et al., "SigLIP 2" (arXiv:2502.14786).

The image tower is a ViT without class token whose features are an attention pooling, without a projection; the text
tower a Transformer that sees to both sides, read at the last of 64 places, with a projection that has a bias. Logits
are cosines times a learned factor without limit, plus a learned bias.

Both papers have the same architecture: SigLIP 2 has a vocabulary of 256,000 tokens where SigLIP has one of 32,000.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray, PyTree

from vit_jax.models import text_tower, vit
from vit_jax.models.two_towers import image_model, run_as, text_model, told
from vit_jax.models.vit_variants import VARIANTS, parse_variant
from vit_jax.nn.two_towers import Projection, TwoTowers
from vit_jax.ranges import Count, Natural, Positive

_VOCABULARY = 32000
_LENGTH = 64
_POSITIONS = ("text/embedding", "text/pos_embedding", "encoder/pos_embedding")


class SigLIP(TwoTowers):
    """`TwoTowers` that start as big_vision starts them."""

    def redrawn(self, params: PyTree[Array], rng: PRNGKeyArray) -> PyTree[Array]:
        """Parameters with its initial values where they are not the house's: embeddings of tokens and positions are
        N(0, 1/D)."""
        params = super().redrawn(params, rng)
        if not isinstance(self.text_tower, text_tower.TextTower):
            return params

        def redraw(path: tuple[jax.tree_util.DictKey, ...], leaf: Array) -> Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if name not in _POSITIONS:
                return leaf
            # By name, so that what one parameter gets does not depend on which others there are.
            key = jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)
            return jax.random.normal(key, leaf.shape) / math.sqrt(leaf.shape[-1])

        return jax.tree.map_with_path(redraw, params)


def build(
    *,
    variant: str = "B/16",
    vocab_size: Count = _VOCABULARY,
    end_id: Natural | None = None,
    embed_dim: Count | None = None,
    text: Mapping[str, Any] | None = None,
    project_image: Projection = "none",
    project_text: Projection = "bias",
    temperature: Positive = 0.1,
    max_scale: Positive | None = None,
    logit_bias: float | None = -10.0,
    naflex: bool = False,
    **image: Any,
) -> SigLIP:
    """A SigLIP of a published size, from values that JSON can hold.

    Args:
        variant: of the image tower, as `vit_jax.models.vit` names it: B/16, L/16, So400m/14, and of SigLIP 2 also B/32,
            So400m/16 and g-opt/16. The text tower has the same size, that of g-opt/16 the size of So400m.
        vocab_size: number of token ids; 256,000 in SigLIP 2.
        end_id: id of the token that ends a text, for a text tower that is read there.
        embed_dim: width of the space; None for that of the image tower.
        text: keys of the text tower that are not to be the variant's, see `vit_jax.models.text_tower.build`; or with a
            `name` the section of another text model.
        project_image: see `TwoTowers`, like `project_text`, `temperature`, `max_scale` and `logit_bias`.
        naflex: images of any aspect ratio (SigLIP 2), see `vit_jax.models.naflex`.
        image: other arguments of the image tower, see `vit_jax.models.vit.ViT.from_variant`; those of `Execution` and
            `dtype` are the text tower's too.

    Raises:
        UserError: for an unknown variant, value or argument.
    """
    towers = (
        image_model(_image_section(variant, image, naflex)),
        text_model(_text_section(variant, image, text), vocab_size, end_id),
    )
    embed_dim = embed_dim or towers[0].encoder.width
    return SigLIP(*towers, embed_dim, project_image, project_text, temperature, max_scale, logit_bias)


def _image_section(variant: str, image: Mapping[str, Any], naflex: bool) -> dict[str, Any]:
    return {"name": "naflex" if naflex else "vit", "variant": variant, "pooling": "map", **image}


def _text_section(variant: str, image: Mapping[str, Any], text: Mapping[str, Any] | None) -> dict[str, Any]:
    if text and "name" in text:
        return run_as(image, text)
    size = parse_variant(variant)[0]
    size = VARIANTS["So400m"] if size == VARIANTS["g-opt"] else size
    own = {"width": size.width, "depth": size.depth, "mlp_dim": size.mlp_dim, "num_heads": size.num_heads}
    if text and "width" in text:
        own["mlp_dim"] = None
    kind = {"max_length": _LENGTH, "mask": None, "pooling": "last", "norm_epsilon": 1e-6, "activation": "gelu_tanh"}
    return run_as(image, {"name": "text_tower", **own, **kind, **(text or {})})


def downstream(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the image tower alone."""
    own = {name: value for name, value in kwargs.items() if name not in _OWN_KEYS}
    return _image_section(kwargs.get("variant", "B/16"), own, kwargs.get("naflex", False))


def texts(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the text tower alone."""
    section = _text_section(kwargs.get("variant", "B/16"), kwargs, kwargs.get("text"))
    return told(section, {"vocab_size": _VOCABULARY, **kwargs})


_OWN_KEYS = tuple(name for name in build.__annotations__ if name not in ("image", "return"))
KEYS = (
    *_OWN_KEYS,
    "grid",
    *(key for key in vit.KEYS if key not in ("variant", "num_classes")),
)  # all that `build` takes
