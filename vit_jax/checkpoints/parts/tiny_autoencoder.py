"""What the families of tiny autoencoders have in common: both number the layers of encoder and decoder one by one."""

import dataclasses
from typing import Any

from vit_jax.checkpoints.name_map import Entry, Shapes, conv, convolution, norm, same, shape_of
from vit_jax.errors import UserError
from vit_jax.models.tiny_autoencoder import VARIANTS, TinyAutoencoder, build


@dataclasses.dataclass(frozen=True)
class Names:
    """How one library numbers the layers.

    Args:
        encoder: of layer i.
        decoder: of layer i.
        first: number of the decoder's first convolution; ReLU is behind it.
    """

    encoder: str
    decoder: str
    first: int


AUTHORS = Names("encoder.{}.", "decoder.{}.", 1)
DIFFUSERS = Names("encoder.layers.{}.", "decoder.layers.{}.", 0)


def tiny_kwargs(tensors: Shapes, names: Names) -> dict[str, Any] | None:
    """Arguments of the model that these tensors are of; None for others.

    Raises:
        UserError: for the authors' form that reduces by 32.
    """
    stem, first = names.encoder.format(0), names.decoder.format(names.first)
    if f"{stem}weight" not in tensors or f"{first}weight" not in tensors:
        return None
    if not _is_block(tensors, names.encoder.format(1)):
        if _is_block(tensors, names.encoder.format(4)):
            raise UserError(
                "This tiny autoencoder reduces by 32, which vit_jax does not read", "Take one that reduces by 8"
            )
        return None
    width, latents = (
        shape_of(tensors, f"{name}weight", 4)[axis] for name, axis in ((stem, 0), (first, 1))
    )  # fmt: skip
    kwargs = {
        "latent_width": latents,
        "width": width,
        "encoder_blocks": _runs(tensors, names.encoder, 0),
        "decoder_blocks": _runs(tensors, names.decoder, names.first + 1),
        "pooled": any(name.endswith(".pool.0.weight") for name in tensors),
    }
    default = build()
    for key in ("width", "encoder_blocks", "decoder_blocks"):
        if kwargs[key] == (list(value) if isinstance(value := getattr(default, key), tuple) else value):
            del kwargs[key]
    variant = next((name for name, size in VARIANTS.items() if size == (latents, kwargs["pooled"])), None)
    if variant is None:
        return kwargs
    return {"variant": variant} | {k: v for k, v in kwargs.items() if k not in ("latent_width", "pooled")}


def _is_block(tensors: Shapes, layer: str) -> bool:
    return f"{layer}conv.0.weight" in tensors


def _runs(tensors: Shapes, layers: str, start: int) -> list[int]:
    """How many blocks follow each other behind layers that are none; behind the last of those there are none."""
    before, after = layers.split("{}")
    numbers = {name.removeprefix(before).split(".")[0] for name in tensors if name.startswith(before)}
    found = [0]
    for number in sorted(int(n) for n in numbers if n.isdecimal() and len(n) < 4)[:-1]:
        layer = f"{before}{number}{after}"
        if number <= start:
            continue
        if _is_block(tensors, layer):
            found[-1] += 1
        elif f"{layer}weight" in tensors:
            found.append(0)
    return found


def tiny_entries(model: TinyAutoencoder, names: Names) -> list[Entry]:
    """Those of both halves."""
    found, number = [], 0
    for i, count in enumerate(model.encoder_blocks):
        found += _convolution(f"encoder/stage_{i}/conv", names.encoder.format(number), bias=not i)
        pooled = model.pooled and i == len(model.encoder_blocks) - 1
        for j in range(count):
            found += _block(f"encoder/stage_{i}/block_{j}", names.encoder.format(number + 1 + j), pooled)
        number += 1 + count
    found += _convolution("encoder/conv_out", names.encoder.format(number))
    found += _convolution("decoder/conv_in", names.decoder.format(names.first))
    number = names.first + 2
    for i, count in enumerate(model.decoder_blocks):
        last = i == len(model.decoder_blocks) - 1
        for j in range(count):
            found += _block(f"decoder/stage_{i}/block_{j}", names.decoder.format(number + j), model.pooled and not i)
        number += count + (0 if last else 1)  # doubling is a layer too
        found += _convolution(f"decoder/stage_{i}/conv", names.decoder.format(number), bias=last)
        number += 1
    return found


def _convolution(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
    found = [conv(f"{ours}/kernel", f"{theirs}weight")]
    return [*found, same(f"{ours}/bias", f"{theirs}bias")] if bias else found


def _block(ours: str, theirs: str, pooled: bool) -> list[Entry]:
    found = [entry for i in range(3) for entry in convolution(f"{ours}/conv{i + 1}", f"{theirs}conv.{2 * i}")]
    if pooled:
        found += [conv(f"{ours}/expand/kernel", f"{theirs}pool.0.weight"), *norm(f"{ours}/norm", f"{theirs}pool.1")]
        found.append(conv(f"{ours}/reduce/kernel", f"{theirs}pool.3.weight"))
    return found
