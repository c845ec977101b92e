"""What all image trunks have in common, and the classifier that most of them are published as."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The order of a model's parameters, input first: for each layer the beginnings of their names.
Layers = tuple[tuple[str, ...], ...]
# Feature maps by their stride, the distance in pixels of the image between two places.
Maps = dict[int, Float[Array, "b h w c"]]


def below(name: str, layers: Layers) -> Layers:
    """The layers of a module, as those of the module that has it under this name."""
    return tuple(tuple(f"{name}/{part}" for part in layer) for layer in layers)


def side_by_side(*towers: Layers) -> Layers:
    """The layers of towers whose last layers are equally far from the loss."""
    depth = max(len(tower) for tower in towers)
    padded = [((),) * (depth - len(tower)) + tower for tower in towers]
    return tuple(sum(layer, ()) for layer in zip(*padded, strict=True))


def trunk_of(model: nn.Module | None) -> nn.Module | None:
    """The network that most of a model is: the one of images or, in a model of text alone, the one of text."""
    return next((found for name in ("encoder", "text") if (found := getattr(model, name, None)) is not None), None)


class Trunk(nn.Module):
    """From normalised images to tokens and feature maps; the subtree `params["encoder"]`."""

    def __call__(self, images: Float[Array, "b h w c"], **kwargs: object) -> Float[Array, "b t d"]:
        """The tokens alone; for the arguments see `encode`."""
        return self.encode(images, **kwargs)[0]

    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        """Tokens, those of places row by row, and maps, of which the coarsest holds what the tokens do."""
        raise NotImplementedError

    def map_shapes(self, image_size: tuple[int, int]) -> dict[int, tuple[int, int, int]]:
        """Height, width and channels of the maps of one image, by stride."""
        alone = self.clone(parent=None)

        def maps() -> Maps:
            images = jnp.zeros((1, *image_size, 3))
            return alone.init_with_output(jax.random.key(0), images, method="encode")[0][1]

        return {stride: found.shape[1:] for stride, found in jax.eval_shape(maps).items()}

    def layers(self) -> Layers:
        """The parameters that learn at layer-wise rates. What is not among them learns at the full rate."""
        raise NotImplementedError

    def flops(self, image_size: tuple[int, int]) -> float | None:
        """Floating point operations of one image forward, see `vit_jax.nn.flops`; None where they are not counted."""
        del image_size
        return None


def logits(
    features: Float[Array, "b d"],
    num_classes: int,
    *,
    bias: float = 0.0,
    kernel_init: nn.initializers.Initializer = nn.initializers.zeros,
    name: str = "head",
) -> dict[str, Float[Array, "b k"]]:
    """A linear head of the module that calls this, which starts at zero: {"logits": ...}, or {} without classes.

    Args:
        bias: initial value of the bias, e.g. -log(num_classes) with a sigmoid loss.
    """
    if not num_classes:
        return {}
    head = nn.Dense(num_classes, kernel_init=kernel_init, bias_init=nn.initializers.constant(bias), name=name)
    return {"logits": head(features)}


class Classifier(nn.Module):
    """A trunk, the mean of its tokens, and a linear head that starts at zero.

    Parameters: `encoder`, and `head` with classes.

    Attributes:
        encoder: the trunk.
        num_classes: outputs of the head; 0 for no head.
        head_bias_init: initial bias of the head, e.g. -log(num_classes) with a sigmoid loss.
    """

    encoder: Trunk
    num_classes: int
    head_bias_init: float = 0.0

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """Classifies normalised images.

        Returns:
            "tokens" [B, T, D] of the trunk, in its dtype; "features" [B, F] float32, what the head sees; "logits"
            [B, num_classes] float32, absent when there is no head; with `maps` also "maps" {stride: [B, h, w, C]}.
        """
        tokens, found = self.tokens_of(images, train)
        return {"tokens": tokens, **self.classified(tokens)} | ({"maps": found} if maps else {})

    def tokens_of(self, images: Float[Array, "b h w c"], train: bool) -> tuple[Float[Array, "b t d"], Maps]:
        """What the trunk makes of the images."""
        return self.encoder.encode(images, train=train)

    def classified(self, tokens: Float[Array, "b t d"]) -> dict[str, Array]:
        """Features and logits; modules that pool otherwise have another."""
        features = tokens.mean(axis=1, dtype=jnp.float32)
        return {"features": features, **logits(features, self.num_classes, bias=self.head_bias_init)}

    def layers(self) -> Layers:
        """See `Trunk.layers`."""
        return below("encoder", self.encoder.layers())

    def flops(self, image_size: tuple[int, int]) -> float | None:
        """Those of the trunk, see `Trunk.flops`."""
        return self.encoder.flops(image_size)
