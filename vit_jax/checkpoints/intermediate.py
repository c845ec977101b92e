"""What the layers inside an image model give, by number or by name."""

import dataclasses
import operator
import re
from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import nearest


def of_images(model: nn.Module) -> nn.Module:
    """The model itself, or of two towers that of the images; the parameters have the same names in both."""
    return getattr(model, "image_tower", model)


def layer_names(model: nn.Module, layers: int | str | Sequence[int | str]) -> tuple[str, ...]:
    """The module that each of `layers` is, by its name in the parameters: "encoder/block_03" for 3.

    Args:
        model: of images.
        layers: numbers from 0, or below 0 from the end, of what stands behind the trunk's first layer (blocks, units of
            a ResNet), or names of modules, as parameters have them; or one of these.

    Raises:
        UserError: for a number that is none of a layer, or a model whose layers have no numbers.
    """
    trunk = getattr(of_images(model), "encoder", None)
    known = [layer[-1] for layer in trunk.layers()[1:]] if hasattr(trunk, "layers") else []
    names = []
    for layer in [layers] if isinstance(layers, int | str) else layers:
        if isinstance(layer, str) and not re.fullmatch("-?[0-9]+", layer):
            names.append(layer.strip("/"))
            continue
        number = int(layer) if isinstance(layer, str) else operator.index(layer)
        if not -len(known) <= number < len(known):
            raise UserError(
                f"There is no layer {number}",
                f"This model has {len(known)}: 0 to {len(known) - 1}, and from the end -1 to -{len(known)}"
                if known
                else "Name it as its parameters are named, such as 'encoder/block_03'",
            )
        names.append(f"encoder/{known[number]}")
    return tuple(names)


def intermediate(
    model: nn.Module, collections: PyTree, images: Float[Array, "B H W 3"], names: Sequence[str]
) -> tuple[Float[Array, "B ..."], ...]:
    """What modules give for images in evaluation, float32: tokens [B, T, D] of a block, a map [B, h, w, C] of others.

    Of a stack that runs as a scan the loop is computed, in which every block is there by itself.

    Args:
        model: of images.
        collections: its parameters and state, by collection.
        images: preprocessed.
        names: of `layer_names`.

    Raises:
        UserError: for a module that is not there, or that is not called by itself.
    """
    model = of_images(model)
    trunk = getattr(model, "encoder", None)
    if hasattr(trunk, "execution"):
        execution = dataclasses.replace(trunk.execution, scan=False, remat="none")
        model = model.clone(encoder=trunk.clone(execution=execution))
    called: set[str] = set()

    def wanted(module: nn.Module, method: str) -> bool:
        name = "/".join(module.path)
        if method == "__call__" and name:
            called.add(name)
        return method == "__call__" and name in names

    _, state = model.apply(
        collections, images, train=False, capture_intermediates=wanted, mutable=["intermediates"]
    )  # fmt: skip
    found = []
    for name in names:
        if name not in called:
            raise UserError(f"There is no layer named {name!r}", nearest(name, called))
        tree = state["intermediates"]
        for part in name.split("/"):
            tree = tree[part]
        value = tree["__call__"][-1]
        # Blocks give their cache beside what they compute.
        found.append(jnp.asarray(value[0] if isinstance(value, tuple) else value, jnp.float32))
    return tuple(found)
