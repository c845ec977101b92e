"""The networks of latent diffusion of texts, side by side: a U-Net that denoises, the autoencoder whose latents they
are, and the text tower whose tokens it attends to (arXiv:2112.10752, section 3; Stable Diffusion)."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.errors import UserError
from vit_jax.models.conditional_unet import ConditionalUNet
from vit_jax.models.controlnet import ControlNet, together
from vit_jax.models.kl_autoencoder import COLLECTION
from vit_jax.models.two_towers import text_model, told
from vit_jax.naming import build_named
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer
from vit_jax.ranges import Count, Natural


class LatentDiffusion(nn.Module):
    """All networks that draw an image of a text.

    Parameters: `unet`, `autoencoder`, `text`, and of controls `control_0`, `control_1`, ...; see the
    modules.

    Attributes:
        unet: `unet(latents, times, context)`, such as `vit_jax.models.conditional_unet`.
        autoencoder: of continuous latents.
        text_tower: its `tokens` are the context.
        control: networks that read an image each and add to the U-Net, see `vit_jax.models.controlnet`.
    """

    unet: nn.Module
    autoencoder: ImageTokenizer
    text_tower: nn.Module
    control: tuple[nn.Module, ...] = ()

    def setup(self):
        nn.share_scope(self, self.text_tower)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        times: Shaped[Array, " b"],
        ids: Int[Array, "b l"],
        images: Float[Array, "b H W 3"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b h w e"], Float[Array, "b H W 3"]]:
        """Everything once: what the U-Net says of latents with noise, and reconstructions of the images. In training
        too all but the U-Net are as in evaluation."""
        context = self.text_tower(ids)["tokens"]
        # An autoencoder reduces images as a control does; whatever they show does here.
        added = [net(x, times, context, images, train=train) for net in self.control]
        residuals = together(added) if added else None
        said = self.unet(x, times, context, residuals=residuals, train=train)
        return said, self.autoencoder(images)["reconstruction"]

    def context(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """What the U-Net attends to: the tokens of texts behind the last norm."""
        return self.text_tower(ids)["tokens"]

    def encode(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b h w c"]:
        """Means of the latents, scaled."""
        return self.autoencoder.encode(images)

    def moments(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b h w 2c"]:
        """What latents are drawn from in training, see `KLAutoencoder.moments`."""
        return self.autoencoder.moments(images)

    def decode(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W 3"]:
        """Images of scaled latents, in -1..1."""
        return self.autoencoder.decode(latents)

    def places(self, image_size: Grid) -> Grid:
        """Rows and columns of the latents of an image.

        Raises:
            UserError: for sides that the autoencoder's stride and the U-Net's levels do not divide.
        """
        [grid] = self.autoencoder.grids(image_size)
        self.unet.check_size(grid)
        for net in self.control:
            net.check_control((*image_size, net.control_channels), grid)
        return grid

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`."""
        size = tuple(image_size) if image_size else None
        [images] = example_inputs(self.autoencoder, size)
        x, times, _ = self.unet.example_inputs(self.places(images.shape[1:3]))
        return x, times, *example_inputs(self.text_tower, None), images

    def redrawn(self, params: PyTree[Array], rng: PRNGKeyArray) -> PyTree[Array]:
        """Parameters with the initial values of the text model's authors, where it says some."""
        if not hasattr(self.text_tower, "redrawn"):
            return params
        return {**params, **self.text_tower.redrawn({"text": params["text"]}, rng)}

    def flops(self, image_size: Grid) -> float:
        """Floating point operations of the U-Net and what adds to it for one image, see `vit_jax.nn.flops`."""
        places = self.places(image_size)
        return self.unet.flops(places) + sum(net.flops(places) for net in self.control)


def build(
    *,
    unet: Mapping[str, Any],
    autoencoder: Mapping[str, Any],
    text: Mapping[str, Any],
    vocab_size: Count,
    end_id: Natural | None = None,
    control: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
) -> LatentDiffusion:
    """The networks from their own model sections.

    Args:
        unet: the section of a denoiser with a context, such as {"name": "conditional_unet", ...}.
        autoencoder: that of an autoencoder of continuous latents, such as {"name": "kl_autoencoder", "variant": "f8"}.
        text: that of a text model, such as {"name": "text_tower", ...}.
        vocab_size: number of token ids.
        end_id: id of the token that ends a text, for a text model that asks.
        control: that of what adds to the U-Net, such as {"name": "controlnet", ...}, or several.

    Raises:
        UserError: for an unknown section, key or value, an autoencoder of codes, or networks that do not fit together.
    """
    made = build_named("model", autoencoder, "config.model.autoencoder")
    if not isinstance(made, ImageTokenizer) or made.vocab_size is not None:
        raise UserError(
            f"The model {autoencoder.get('name')!r} gives no continuous latents", "Use one such as kl_autoencoder"
        )
    denoiser = build_named("model", unet, "config.model.unet")
    if not hasattr(denoiser, "context_keys_values"):
        raise UserError(f"The model {unet.get('name')!r} reads no text", "Use one such as conditional_unet")
    tower = text_model(text, vocab_size, end_id)
    wanted, given = denoiser.blocks.context_width, tower.text.width
    if wanted != given:
        raise UserError(
            f"The U-Net attends to tokens of width {wanted}, and those of the text model are {given} wide",
            f"Set config.model.unet.context_width={given}, or use the text model that the U-Net was trained with",
        )
    if denoiser.inputs < made.latent_width or denoiser.outputs < made.latent_width:
        raise UserError(
            f"The U-Net reads {denoiser.inputs} channels and gives {denoiser.outputs}, and latents have "
            f"{made.latent_width}",
            "Use the autoencoder that the U-Net was trained with",
        )
    sections = [control] if isinstance(control, Mapping) else control
    return LatentDiffusion(denoiser, made, tower, tuple(_control(section, denoiser) for section in sections))


def _control(section: Mapping[str, Any], unet: ConditionalUNet) -> ControlNet:
    net = build_named("model", section, "config.model.control")
    if not isinstance(net, ControlNet):
        raise UserError(f"The model {section.get('name')!r} adds nothing to a U-Net", "Use one such as controlnet")
    sizes = [
        (each.inputs, each.channels, each.multipliers, each.num_blocks, each.blocks.context_width)
        for each in (net, unet)
    ]
    if sizes[0] != sizes[1]:
        raise UserError(
            "A ControlNet is of another size than the U-Net",
            "Use one that was trained with this U-Net, or give both the same arguments",
        )
    return net


def texts(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the text tower alone."""
    return told(kwargs["text"], kwargs)


def settled(kwargs: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same networks with the scale that the autoencoder measured among its arguments, and what is left of the
    state; see `vit_jax.models.kl_autoencoder.settled`."""
    measured = f"{COLLECTION}/autoencoder/scale"
    if measured not in state:
        return dict(kwargs), dict(state)
    section = {**kwargs["autoencoder"], "scale": float(state[measured])}
    return {**kwargs, "autoencoder": section}, {name: x for name, x in state.items() if name != measured}
