"""HART's tokenizer: VAR's with hybrid tokens (Tang et al., arXiv:2410.10812, section 3.1).

In half of the steps of training the decoder gets the codes of an image, in the other half the latents themselves, which
are the codes and what they leave. So one decoder serves both, and a generator may draw codes first and then the rest.
"""

import functools

import jax
from jaxtyping import Array, Float, Int

from vit_jax.models import var_tokenizer
from vit_jax.models.var_tokenizer import VARTokenizer
from vit_jax.nn.hybrid_vq import Hybrid, HybridQuantizer
from vit_jax.nn.image_tokenizer import Grid

_CONTINUOUS = 0.5  # share of the steps


class HARTTokenizer(VARTokenizer):
    """Square images to maps of tokens from coarse to fine and their remainder, and back. See `VARTokenizer`."""

    quantizer: HybridQuantizer

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> dict[str, Array]:
        """As of `VARTokenizer`; with "reconstruction" of the latents, and "discrete_reconstruction" of the codes alone.

        Args:
            train: "reconstruction" is of either, by a coin of the stream "dropout" for all images together.
        """
        latents, grids = self.encode(images), self.grids(images.shape[1:3])
        continuous = jax.random.bernoulli(self.make_rng("dropout"), _CONTINUOUS) if train else True
        found = self.quantizer(latents, grids, train, continuous)
        result = {
            "reconstruction": self.decode(found.latents),
            "latents": latents,
            "indices": found.indices,
            "quantizer_loss": found.loss,
        }
        if not train:
            # Codes are the same as in training; what they stand for is not, see `HybridQuantizer`.
            result["discrete_reconstruction"] = self.decode(self.quantizer.embed(found.indices, grids))
        return result

    def hybrid(self, latents: Float[Array, "b gh gw d"], grids: tuple[Grid, ...]) -> Hybrid:
        """What a generator learns of latents, see `HybridQuantizer.hybrid`."""
        return self.quantizer.hybrid(latents, grids)

    def codes(self, indices: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        """The codes of the last map, as they are added to the sum."""
        return self.quantizer.codebook.embed(indices)


@functools.wraps(var_tokenizer.build)
def build(**kwargs) -> HARTTokenizer:
    """The tokenizer, see `vit_jax.models.var_tokenizer.build`."""
    plain = var_tokenizer.build(**kwargs)
    theirs = plain.quantizer
    quantizer = HybridQuantizer(theirs.codebook, theirs.phis, theirs.share, theirs.beta, theirs.cosine, parent=None)
    return HARTTokenizer(plain.encoder, quantizer, plain.decoder, plain.scales)
