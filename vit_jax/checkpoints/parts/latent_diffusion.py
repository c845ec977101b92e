"""Encoder and decoder of latent diffusion's autoencoders, which VQGAN, MAR and VAR have too, by the authors' names."""

import itertools
from collections.abc import Callable
from typing import Any

from vit_jax.checkpoints.name_map import Entry, Shapes, conv, fused, linear, norm, same, shape_of
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.nn.autoencoder import Decoder, Encoder

Attention = Callable[[str, str], list[Entry]]  # of our name and theirs


def convolution(ours: str, theirs: str) -> list[Entry]:
    """A convolution with its bias."""
    return [conv(f"{ours}/kernel", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def fused_attention(ours: str, theirs: str) -> list[Entry]:
    """An attention whose queries, keys and values are one 1x1 convolution, as VAR's authors have it."""
    names = [f"{ours}/{part}" for part in ("query", "key", "value")]
    kernels = [_pointwise(f"{name}/kernel", f"{theirs}.qkv.weight") for name in names]
    return [
        *norm(f"{ours}/norm", f"{theirs}.norm"),
        fused([f"{name}/kernel" for name in names], f"{theirs}.qkv.weight", kernels),
        fused([f"{name}/bias" for name in names], f"{theirs}.qkv.bias"),
        _pointwise(f"{ours}/out/kernel", f"{theirs}.proj_out.weight"),
        same(f"{ours}/out/bias", f"{theirs}.proj_out.bias"),
    ]


def encoder_entries(encoder: Encoder, attention: Attention, ours: str = "encoder", theirs: str = "encoder.") -> list:
    """Entries of an encoder below `ours`, whose names in the file begin with `theirs`."""
    found = _ends(ours, theirs)
    width = encoder.channels
    for i, multiplier in enumerate(encoder.multipliers):
        level, name, wide = f"{ours}/level_{i}", f"{theirs}down.{i}.", encoder.channels * multiplier
        attends = i in encoder.attention_levels
        found += _blocks(level, name, [width] + [wide] * encoder.num_blocks, attends, attention)
        if i < len(encoder.multipliers) - 1:
            found += convolution(f"{level}/down/conv", f"{name}downsample.conv")
        width = wide
    return found + _middle(f"{ours}/middle", f"{theirs}mid.", encoder.middle_attends, attention)


def decoder_entries(decoder: Decoder, attention: Attention, ours: str = "decoder", theirs: str = "decoder.") -> list:
    """The same of a decoder."""
    found = _ends(ours, theirs) + _middle(f"{ours}/middle", f"{theirs}mid.", decoder.middle_attends, attention)
    width = decoder.channels * decoder.multipliers[-1]
    for i in reversed(range(len(decoder.multipliers))):
        level, name, wide = f"{ours}/level_{i}", f"{theirs}up.{i}.", decoder.channels * decoder.multipliers[i]
        attends = i in decoder.attention_levels
        found += _blocks(level, name, [width] + [wide] * (decoder.num_blocks + 1), attends, attention)
        if i:
            found += convolution(f"{level}/up/conv", f"{name}upsample.conv")
        width = wide
    return found


def sizes(tensors: Shapes, prefix: str = "") -> dict[str, Any]:
    """Arguments that the encoder's shapes say: channels, multipliers, blocks, and which levels attend."""
    start = f"{prefix}encoder."
    channels = shape_of(tensors, f"{start}conv_in.weight", 4)[0]
    levels = depth_of(tensors, f"{start}down.{{}}.")
    name = f"{start}down.{{}}.block.0.conv1.weight"
    return {
        "channels": channels,
        "multipliers": [shape_of(tensors, name.format(i), 4)[0] // channels for i in range(levels)],
        "num_blocks": depth_of(tensors, f"{start}down.0.block.{{}}."),
        "attention_levels": [i for i in range(levels) if any(f"{start}down.{i}.attn.0." in n for n in tensors)],
        "middle_attends": any(n.startswith(f"{start}mid.attn_1.") for n in tensors),
    }


def _pointwise(ours: str, theirs: str) -> Entry:
    """A 1x1 convolution [out, in, 1, 1] as the kernel of a dense layer."""
    entry = linear(ours, theirs)
    return Entry((ours,), (theirs,), entry.read, lambda kernel: [x[:, :, None, None] for x in entry.write(kernel)])


def _ends(ours: str, theirs: str) -> list[Entry]:
    found = norm(f"{ours}/norm_out", f"{theirs}norm_out")
    for name in ("conv_in", "conv_out"):
        found += convolution(f"{ours}/{name}", f"{theirs}{name}")
    return found


def _block(ours: str, theirs: str, changes_width: bool = False) -> list[Entry]:
    found = []
    for i in (1, 2):
        found += norm(f"{ours}/norm{i}", f"{theirs}.norm{i}") + convolution(f"{ours}/conv{i}", f"{theirs}.conv{i}")
    return found + (convolution(f"{ours}/shortcut", f"{theirs}.nin_shortcut") if changes_width else [])


def _blocks(ours: str, theirs: str, widths: list[int], attends: bool, attention: Attention) -> list[Entry]:
    found = []
    for j, (before, after) in enumerate(itertools.pairwise(widths)):
        found += _block(f"{ours}/block_{j}", f"{theirs}block.{j}", before != after)
        found += attention(f"{ours}/attention_{j}", f"{theirs}attn.{j}") if attends else []
    return found


def _middle(ours: str, theirs: str, attends: bool, attention: Attention) -> list[Entry]:
    found = _block(f"{ours}/block_0", f"{theirs}block_1") + _block(f"{ours}/block_1", f"{theirs}block_2")
    return found + (attention(f"{ours}/attention", f"{theirs}attn_1") if attends else [])
