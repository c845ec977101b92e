"""YOLOS: detection by a plain ViT with a hundred more tokens, each of which says a class and a box.

Fang et al., "You only look at one sequence" (arXiv:2106.00666).
"""

from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models import vit
from vit_jax.models.vit import ViTEncoder
from vit_jax.naming import construct
from vit_jax.nn.flops import product_flops
from vit_jax.nn.trunk import Layers, Maps, below
from vit_jax.ranges import Count, Natural

_POSITION = nn.initializers.truncated_normal(0.02)


class Perceptron(nn.Module):
    """Dense layers with ReLU between them; parameters `fc1`, `fc2`, `fc3`.

    Attributes:
        hidden: width of all but the last.
        width: of the last.
        depth: how many there are.
    """

    hidden: int
    width: int
    depth: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b width"]:
        for i in range(1, self.depth):
            x = nn.relu(nn.Dense(self.hidden, name=f"fc{i}")(x))
        return nn.Dense(self.width, name=f"fc{self.depth}")(x)


class Yolos(nn.Module):
    """A detector: the trunk is a ViT, which any ViT's parameters fill.

    Parameters: `encoder`; `detection` and `detection_pos_embedding` [1, n, D]; with positions in the middle
    `mid_pos_embedding` [depth - 1, gh, gw, D] and `mid_token_pos_embedding` [depth - 1, 1 + n, D], of the class token
    (without one, n) and the detection tokens; `classes` and `boxes`, see `Perceptron`.

    Attributes:
        encoder: the trunk, in the paper with a class token.
        num_classes: of objects; one more logit is of no object.
        num_detections: tokens, and so boxes at most.
        mid_positions: positions are added after each block but the last, too.
    """

    encoder: ViTEncoder
    num_classes: int
    num_detections: int = 100
    mid_positions: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """Detects in normalised images.

        Returns:
            "detection_logits" float32 [B, n, num_classes + 1], the last of no object; "detection_boxes" float32
            [B, n, 4] of (centre x, centre y, width, height) as shares of the image; "tokens" of class and patches, and
            "features" [B, D], the class token or without one the mean; with `maps` also "maps" of the trunk.
        """
        width, count, before = self.encoder.width, self.num_detections, self.encoder.tokens.count
        behind = self.param("detection", nn.initializers.zeros, (1, count, width))
        behind = behind + self.param("detection_pos_embedding", _POSITION, (1, count, width))
        between = None
        if self.mid_positions:
            depth = self.encoder.depth - 1
            of_patches = self.param(
                "mid_pos_embedding", _POSITION, (depth, *self.encoder.grid(images.shape[1:3]), width)
            )
            of_tokens = self.param("mid_token_pos_embedding", _POSITION, (depth, before + count, width))
            patches = of_patches.reshape(depth, -1, width)
            between = jnp.concatenate([of_tokens[:, :before], patches, of_tokens[:, before:]], axis=1)[:, None]
        tokens, found = self.encoder.encode(images, train=train, behind=behind, between=between)
        tokens, detections = tokens[:, :-count], tokens[:, -count:].astype(jnp.float32)
        outputs = {
            "tokens": tokens,
            "features": tokens[:, 0].astype(jnp.float32) if before else tokens.mean(axis=1, dtype=jnp.float32),
            "detection_logits": Perceptron(width, self.num_classes + 1, name="classes")(detections),
            "detection_boxes": jax.nn.sigmoid(Perceptron(width, 4, name="boxes")(detections)),
        }
        return outputs | ({"maps": found} if maps else {})

    @property
    def behind(self) -> int:
        """Tokens behind the patches."""
        return self.num_detections

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`; what is added to the tokens belongs to the first."""
        first, *others = below("encoder", self.encoder.layers())
        own = ("detection", "detection_pos_embedding", "mid_pos_embedding", "mid_token_pos_embedding")
        return ((*first, *own), *others)

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of the trunk with the further tokens, and of the heads."""
        width, count = self.encoder.width, self.num_detections
        heads = 4 * product_flops(count, width, width) + product_flops(count, width, self.num_classes + 5)
        return self.encoder.flops(image_size, behind=count) + heads

    @classmethod
    def from_trunk(
        cls,
        trunk: Mapping[str, Any],
        *,
        num_classes: Natural,
        num_detections: Count = 100,
        mid_positions: bool = False,
    ) -> Self:
        """A detector from values that JSON can hold.

        Args:
            trunk: arguments of `vit_jax.models.vit.ViT.from_variant` but num_classes, with the `name` "vit". The
                paper's tiny is "Ti/16" with the activation "gelu_exact" and a `norm_epsilon` of 1e-12.
            num_classes: see `Yolos`, like `num_detections` and `mid_positions`.

        Raises:
            UserError: for a trunk that is no ViT, or one with registers or a distillation token.
        """
        trunk = dict(trunk)
        if trunk.pop("name", "vit") != "vit":
            raise UserError("The trunk of YOLOS is a ViT", "Set config.model.trunk.name=vit")
        encoder = construct(vit.build, trunk, "config.model.trunk", keywords=vit.KEYS, num_classes=0).encoder
        if encoder.tokens.count > encoder.tokens.class_token:
            raise UserError(
                "The trunk of YOLOS has no other token before the patches than a class token", "Leave the others out"
            )
        # Unowned, so that the model adopts it as `encoder` even when it is made inside another module's setup.
        return cls(encoder.clone(parent=None), num_classes, num_detections, mid_positions)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = Yolos.from_trunk
