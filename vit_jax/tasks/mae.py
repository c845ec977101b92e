"""MAE: He et al., "Masked autoencoders are scalable vision learners" (arXiv:2111.06377).

Of each image a random quarter of the patches is encoded. The decoder predicts all patches, and the loss is the mean
squared error of those that the encoder did not see, against pixels normalised by mean and standard deviation of their
own patch (section 3).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.models.mae import MaskedAutoencoder, random_orders
from vit_jax.naming import build_model
from vit_jax.nn.patch import patchify
from vit_jax.nn.xavier import xavier_redrawn
from vit_jax.ranges import Count
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen, in_training, model_outputs


def targets(
    images: Float[Array, "b h w c"], patch_size: tuple[int, int], normalize: bool
) -> Float[Array, "b n pixels"]:
    """The pixels of each patch, row by row; normalised with the patch's unbiased variance plus 1e-6."""
    patches = patchify(images, patch_size)
    patches = patches.reshape(patches.shape[0], -1, patches.shape[-1])
    if not normalize:
        return patches
    centred = patches - patches.mean(-1, keepdims=True)
    variance = jnp.square(centred).sum(-1, keepdims=True) / (patches.shape[-1] - 1)
    return centred / jnp.sqrt(variance + 1e-6)


def masked_error(
    predictions: Float[Array, "b n pixels"], wanted: Float[Array, "b n pixels"], order: Int[Array, "b n"], visible: int
) -> Float[Array, " b"]:
    """Mean squared error of each image over the patches `order[:, visible:]`."""
    errors = jnp.square(predictions - wanted).mean(-1)
    return jnp.take_along_axis(errors, order[:, visible:], axis=1).mean(-1)


@dataclasses.dataclass(frozen=True)
class MAE(Task):
    """Reconstruction of `batch["image"]` float [B, H, W, 3] from some of its patches.

    Args:
        model: encoder and decoder.
        model_spec: what rebuilds it from a checkpoint.
    """

    model: MaskedAutoencoder
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        params = self.model.init({"params": rng}, batch["image"], train=False)["params"]
        # As the authors' code: the fan of a kernel is that of its matrix in PyTorch, where one makes q, k and v.
        tokens = {"cls": 0.02, "mask_token": 0.02}
        params = xavier_redrawn(params, jax.random.fold_in(rng, 1), fused_qkv=True, tokens=tokens)
        return {"params": params, "model_state": {}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        masking, *keys = jax.random.split(rng, 3)
        images = batch["image"]
        wanted = targets(images, self.model.encoder.patch_size, self.model.normalize_pixels)
        order = random_orders(masking, *wanted.shape[:2])
        predictions, state = in_training(
            self.model, variables["params"], variables["model_state"], keys, images, order, method="reconstruct"
        )
        losses = masked_error(predictions, wanted, order, self.model.visible(images.shape[1:3]))
        return losses.mean(), ({"loss": (losses.sum(), jnp.float32(losses.size))}, state)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        return chosen(names, model_outputs(self.model, variables, batch["image"], names))

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`: the decoder and the visible part of the encoder, forward and twice that backward."""
        return 3 * self.model.pretraining_flops(batch["image"].shape[-3:-1])


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    mask_ratio: float = 0.75,
    decoder_width: Count = 512,
    decoder_depth: Count = 8,
    decoder_heads: Count = 16,
    normalize_pixels: bool = True,
) -> MAE:
    """The task; the defaults are the paper's.

    Args:
        model: the section of a `vit`.
        mask_ratio: share of the patches that the encoder does not see.
        decoder_width: of the decoder's tokens, see `vit_jax.models.mae`, like `decoder_depth` and `decoder_heads`.
        normalize_pixels: predict pixels normalised patch by patch, which gives better features (table 1d).
    """
    section = {
        "name": "mae",
        "trunk": dict(model or {}),
        "mask_ratio": mask_ratio,
        "normalize_pixels": normalize_pixels,
        "decoder_width": decoder_width,
        "decoder_depth": decoder_depth,
        "decoder_heads": decoder_heads,
    }
    module, spec = build_model(section, num_classes=0)
    module.visible(data.image_size)
    return MAE(module, spec)
