"""Visual prompt tuning: a ViT that stays as it is, with learned tokens beside its own.

Jia et al., "Visual prompt tuning" (arXiv:2203.12119).
"""

import math
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models import vit
from vit_jax.models.vit import ViT
from vit_jax.naming import construct
from vit_jax.nn.trunk import Layers, Maps
from vit_jax.ranges import Count, Natural


class VPT(ViT):
    """A ViT whose blocks find prompts behind the patches; what they make of them is neither pooled nor returned.

    Blocks do not know the order of tokens, so that behind the patches is as good as between class token and patches,
    where the paper draws them (section 3.2). What is to stay as it is, `config.optim.frozen` says: 'encoder/.*'.

    Parameters: those of `ViT`, and `prompts` [1, n, D], or [depth, n, D].

    Attributes:
        num_prompts: n.
        deep: each block finds prompts of its own, in the place of what the block before made of its; otherwise the
            first one finds them, and what it makes of them goes on (VPT-Deep and VPT-Shallow, equations 4 to 7).
    """

    num_prompts: int = 10
    deep: bool = False

    def tokens_of(self, images: Float[Array, "b h w c"], train: bool) -> tuple[Float[Array, "b t d"], Maps]:
        encoder, count = self.encoder, self.num_prompts
        shape = (encoder.depth if self.deep else 1, count, encoder.width)
        prompts = self.param("prompts", self._start, shape)
        tokens, maps = encoder.encode(
            images, train=train, final_norm=not self.fc_norm, behind=prompts[:1], renewed=prompts if self.deep else None
        )
        return tokens[:, :-count], maps

    def _start(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "l n d"]:
        """As the authors' code draws them: as Xavier's rule would a kernel from a patch to a token."""
        bound = math.sqrt(6 / (3 * math.prod(self.encoder.patch_size) + shape[-1]))
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    @property
    def behind(self) -> int:
        """Tokens behind the patches."""
        return self.num_prompts

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`; prompts belong to the first one."""
        first, *others = super().layers()
        return ((*first, "prompts"), *others)

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of the trunk with the further tokens."""
        return self.encoder.flops(image_size, behind=self.num_prompts)

    @classmethod
    def from_trunk(
        cls, trunk: Mapping[str, Any], *, num_classes: Natural, num_prompts: Count = 10, deep: bool = False
    ) -> Self:
        """A ViT with prompts from values that JSON can hold.

        Args:
            trunk: arguments of `vit_jax.models.vit.ViT.from_variant` but num_classes, with the `name` "vit".
            num_classes: see `VPT`, like `num_prompts` and `deep`.

        Raises:
            UserError: for a trunk that is no ViT.
        """
        trunk = dict(trunk)
        if (name := trunk.pop("name", "vit")) != "vit":
            raise UserError(
                f"Prompts are tokens of a ViT, and {name!r} is none",
                "Set config.model.trunk.name=vit, or use config.lora",
            )
        made = construct(vit.build, trunk, "config.model.trunk", keywords=vit.KEYS, num_classes=num_classes)
        own = {name: getattr(made, name) for name in ViT.__dataclass_fields__ if name not in ("parent", "name")}
        # Unowned, so that the model adopts it as `encoder` even when it is made inside another module's setup.
        return cls(**own | {"encoder": made.encoder.clone(parent=None)}, num_prompts=num_prompts, deep=deep)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = VPT.from_trunk
