"""Why codes: an autoencoder whose decoder can do without its latents, with Gaussian latents and with codes.

    python benchmarks/posterior_collapse.py

Images are scikit-learn's digits, 8x8 pixels of four levels. The decoder is a gated PixelCNN that hears a map made of
2x2 latents; alone it predicts a digit well. So a VAE drives the divergence of its latents to 0, which says that they
hold nothing, and a VQ-VAE with the same encoder and decoder goes on using its codes, which cost it nothing. That the
decoder hears them shows in what a digit costs with the latents of another one. 70 seconds of a CPU core.
"""

import argparse
import dataclasses
import functools
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from benchmarks.runs import as_command
from vit_jax.commands.table import table
from vit_jax.models.pixelcnn import GatedPixelCNN
from vit_jax.nn import variational
from vit_jax.nn.code_usage import code_counts, perplexity
from vit_jax.nn.strided_coder import StridedDecoder, StridedEncoder
from vit_jax.nn.vq import COLLECTION, Codebook, VectorQuantizer

LEVELS, CODES, WIDTH, LATENT, BATCH, TRAINED = 4, 16, 16, 4, 32, 1500


class Autoencoder(nn.Module):
    """Levels [B, 8, 8, 1] as 2x2 latents, and their logits after those before and the latents.

    Attributes:
        codes: whether latents are codes, or else Gaussians.
    """

    codes: bool

    @nn.compact
    def __call__(self, levels: jax.Array, key: jax.Array, train: bool, shuffled: bool = False) -> dict[str, jax.Array]:
        x = 2 * levels / (LEVELS - 1) - 1
        found = StridedEncoder(LATENT if self.codes else 2 * LATENT, WIDTH, WIDTH, 1, 4, name="encoder")(x)
        told: dict[str, jax.Array] = {"used": jnp.zeros(CODES, jnp.int32), "apart": jnp.zeros(len(x))}
        if self.codes:
            quantizer = VectorQuantizer(Codebook(CODES, LATENT, decay=0.9, restart_below=0.5), name="quantizer")
            quantized = quantizer(found, train)
            latents, added = quantized.latents, quantized.loss
            told["used"] = code_counts(quantized.indices, CODES)
        else:
            latents = variational.drawn(jax.random.split(key, len(x)), found)
            told["apart"] = variational.divergence(found)
            added = told["apart"].mean()
        latents = jnp.roll(latents, 1, axis=0) if shuffled else latents
        maps = StridedDecoder(WIDTH, WIDTH, WIDTH, 1, 4, name="maps")(latents)
        logits = GatedPixelCNN(LEVELS, 1, 0, WIDTH, 3, 5, name="decoder")(levels, maps=maps)
        logs = jnp.take_along_axis(jax.nn.log_softmax(logits), levels[..., None], -1)
        told["nats"] = -logs.sum((1, 2, 3, 4))
        return told | {"loss": told["nats"].mean() + added}


@dataclasses.dataclass(frozen=True)
class Found:
    """What is measured on images that were not trained on.

    Args:
        divergence: of the Gaussian latents from the standard one, nats an image.
        codes: that are in use, of 16, and their perplexity.
        bits: a pixel, given the latents; without the divergence or the codes.
        other_bits: the same with the latents of another image.
    """

    divergence: float
    codes: int
    perplexity: float
    bits: float
    other_bits: float


def run(codes: bool, steps: int, seed: int = 0) -> Found:
    """Trains one of the two, and measures it."""
    images = (load_digits().images[..., None] * LEVELS // 17).astype(np.int32)
    images = images[np.random.default_rng(0).permutation(len(images))]
    model, order = Autoencoder(codes), np.random.default_rng(seed)
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(seed), images[:2], jax.random.key(0))
    params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    @jax.jit
    def step(params: Any, state: Any, slots: Any, batch: jax.Array, key: jax.Array) -> tuple[Any, Any, Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            told, new = model.apply(
                {"params": params, **state}, batch, key, True, mutable=[COLLECTION], rngs={"dropout": key}
            )
            return told["loss"], {**state, **new}

        slopes, state = jax.grad(loss, has_aux=True)(params)
        updates, slots = tx.update(slopes, slots, params)
        return optax.apply_updates(params, updates), state, slots

    slots = tx.init(params)
    for number in range(steps):
        batch = images[order.integers(0, TRAINED, BATCH)]
        params, state, slots = step(params, state, slots, batch, jax.random.fold_in(jax.random.key(seed), number))

    @functools.partial(jax.jit, static_argnums=2)
    def measure(variables: Any, images: jax.Array, shuffled: bool) -> dict[str, jax.Array]:
        return model.apply(variables, images, jax.random.key(1), False, shuffled)

    own, other = (measure({"params": params, **state}, images[TRAINED:], shuffled) for shuffled in (False, True))
    pixel = math.log(2) * images[0].size
    return Found(
        float(own["apart"].mean()),
        int((own["used"] > 0).sum()),
        float(perplexity(own["used"])),
        float(own["nats"].mean() / pixel),
        float(other["nats"].mean() / pixel),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of training; 300 by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    found = {name: run(codes, arguments.steps) for name, codes in (("VAE", False), ("VQ-VAE", True))}
    rows = []
    for name, x in found.items():
        used = [f"{x.codes} of {CODES}", f"{x.perplexity:.1f}"] if x.codes else ["", ""]
        rows.append([name, f"{x.divergence:.3f}", *used, f"{x.bits:.3f}", f"{x.other_bits:.3f}"])
    print(
        table(["", "KL, nats an image", "codes in use", "perplexity", "bits a pixel", "with another's latents"], rows)
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({k: dataclasses.asdict(v) for k, v in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    as_command(main)
