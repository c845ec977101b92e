"""What the families of VQGAN and of latent diffusion's autoencoders have in common: names, sizes, entries."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import (
    Entry,
    NameMap,
    NDArray,
    Shapes,
    convolution,
    dense,
    fused,
    norm,
    same,
    shape_of,
    transpose,
)
from vit_jax.checkpoints.parts.sidecars import INCEPTION
from vit_jax.errors import UserError
from vit_jax.models.kl_autoencoder import VARIANTS
from vit_jax.models.vqgan import VQGAN
from vit_jax.nn.autoencoder import Decoder, Encoder, Layout

TASK = {"name": "tokenizer", "kwargs": {}, "given": []}
SIDE = 256  # pixels, where a file does not say for which images it is


def pixels(side: int = SIDE) -> dict[str, Any]:
    """Values for `Preprocess`: the middle of an image, in -1..1."""
    return {"image_size": [side, side], "resize": "cover", "interpolation": "bicubic", **INCEPTION}


@dataclasses.dataclass(frozen=True)
class Names:
    """How one library calls the tensors of an encoder and a decoder.

    Args:
        down: of level i of the encoder.
        up: of level i of the decoder.
        from_below: whether `up` counts from the lowest resolution.
        block: of residual block j of a level.
        attention: of attention j of a level.
        down_conv: of the convolution that halves, within its level.
        up_conv: of the one behind doubling.
        middle_blocks: of both blocks of the middle.
        middle_attention: of its attention.
        norm_out: of the last norm.
        shortcut: of the 1x1 convolution of a residual block.
        norm: of attention.
        projections: of query, key, value and what comes out; of two names the first is query, key and value in one.
        are_convs: whether those are 1x1 convolutions and not linear layers.
    """

    down: str
    up: str
    from_below: bool
    block: str
    attention: str
    down_conv: str
    up_conv: str
    middle_blocks: tuple[str, str]
    middle_attention: str
    norm_out: str
    shortcut: str
    norm: str
    projections: tuple[str, ...]
    are_convs: bool

    def up_level(self, level: int, levels: int) -> str:
        """Of a level of the decoder."""
        return self.up.format(levels - 1 - level if self.from_below else level)


COMPVIS = Names(
    down="encoder.down.{}.",
    up="decoder.up.{}.",
    from_below=False,
    block="block.{}.",
    attention="attn.{}.",
    down_conv="downsample.conv",
    up_conv="upsample.conv",
    middle_blocks=("mid.block_1.", "mid.block_2."),
    middle_attention="mid.attn_1.",
    norm_out="norm_out",
    shortcut="nin_shortcut",
    norm="norm",
    projections=("q", "k", "v", "proj_out"),
    are_convs=True,
)
DIFFUSERS = Names(
    down="encoder.down_blocks.{}.",
    up="decoder.up_blocks.{}.",
    from_below=True,
    block="resnets.{}.",
    attention="attentions.{}.",
    down_conv="downsamplers.0.conv",
    up_conv="upsamplers.0.conv",
    middle_blocks=("mid_block.resnets.0.", "mid_block.resnets.1."),
    middle_attention="mid_block.attentions.0.",
    norm_out="conv_norm_out",
    shortcut="conv_shortcut",
    norm="group_norm",
    projections=("to_q", "to_k", "to_v", "to_out.0"),
    are_convs=False,
)
# What diffusers wrote before version 0.18, and reads still.
OLD_DIFFUSERS = dataclasses.replace(DIFFUSERS, projections=("query", "key", "value", "proj_attn"))


def one_by_one(ours: str, theirs: str) -> Entry:
    """A 1x1 convolution [out, in, 1, 1] as the kernel [in, out] of a dense layer."""

    def read(w: NDArray) -> list[NDArray]:
        return [transpose(w.reshape(w.shape[0], -1))]

    def write(kernel: NDArray) -> list[NDArray]:
        return [transpose(kernel)[:, :, None, None]]

    return Entry((ours,), (theirs,), read, write)


def block_entries(ours: str, theirs: str, names: Names, shortcut: bool) -> list[Entry]:
    """Those of a residual block without time."""
    found = [
        *norm(f"{ours}/norm1", f"{theirs}norm1"), *convolution(f"{ours}/conv1", f"{theirs}conv1"),
        *norm(f"{ours}/norm2", f"{theirs}norm2"), *convolution(f"{ours}/conv2", f"{theirs}conv2"),
    ]  # fmt: skip
    return found + (convolution(f"{ours}/shortcut", theirs + names.shortcut) if shortcut else [])


def attention_entries(ours: str, theirs: str, names: Names) -> list[Entry]:
    """Those of attention over places."""
    found = norm(f"{ours}/norm", theirs + names.norm)
    kernels, parts = one_by_one if names.are_convs else _linear, ("query", "key", "value")
    if len(names.projections) == 2:
        joined, out = (theirs + name for name in names.projections)
        kernel_parts = [kernels(f"{ours}/{part}/kernel", f"{joined}.weight") for part in parts]
        found.append(fused([f"{ours}/{part}/kernel" for part in parts], f"{joined}.weight", kernel_parts))
        found.append(fused([f"{ours}/{part}/bias" for part in parts], f"{joined}.bias"))
        pairs = [("out", out)]
    else:
        pairs = [(part, theirs + name) for part, name in zip((*parts, "out"), names.projections, strict=True)]
    for part, name in pairs:
        found += [kernels(f"{ours}/{part}/kernel", f"{name}.weight"), same(f"{ours}/{part}/bias", f"{name}.bias")]
    return found


def _linear(ours: str, theirs: str) -> Entry:
    return dense(ours.removesuffix("/kernel"), theirs.removesuffix(".weight"))[0]


def layout_entries(layout: Layout, names: Names, decoder: bool = True) -> list[Entry]:
    """Those of the encoder and, where there is one, of the decoder of a layout."""
    found = encoder_entries(layout.encoder(1, parent=None), names)
    return found + (decoder_entries(layout.decoder(parent=None), names) if decoder else [])


def encoder_entries(encoder: Encoder, names: Names) -> list[Entry]:
    """Those of an encoder, below `encoder` on both sides."""
    found, before = convolution("encoder/conv_in", "encoder.conv_in"), encoder.channels
    for i, width in enumerate(_widths(encoder)):
        ours, theirs = f"encoder/level_{i}", names.down.format(i)
        attends = i in encoder.attention_levels
        found += _blocks(ours, theirs, names, encoder.num_blocks, attends, before != width)
        if i < len(encoder.multipliers) - 1:
            found += convolution(f"{ours}/down/conv", theirs + names.down_conv)
        before = width
    return found + _ends("encoder", names, encoder.middle_attends)


def decoder_entries(decoder: Decoder, names: Names) -> list[Entry]:
    """Those of a decoder, below `decoder` on both sides."""
    widths = _widths(decoder)
    found, before = convolution("decoder/conv_in", "decoder.conv_in"), widths[-1]
    for i, width in reversed(list(enumerate(widths))):
        ours, theirs = f"decoder/level_{i}", names.up_level(i, len(widths))
        attends = i in decoder.attention_levels
        found += _blocks(ours, theirs, names, decoder.num_blocks + 1, attends, before != width)
        if i:
            found += convolution(f"{ours}/up/conv", theirs + names.up_conv)
        before = width
    return found + _ends("decoder", names, decoder.middle_attends)


def _widths(half: Encoder | Decoder) -> list[int]:
    return [half.channels * multiplier for multiplier in half.multipliers]


def _blocks(ours: str, theirs: str, names: Names, count: int, attends: bool, widens: bool) -> list[Entry]:
    found = []
    for j in range(count):
        found += block_entries(f"{ours}/block_{j}", theirs + names.block.format(j), names, widens and not j)
        if attends:
            found += attention_entries(f"{ours}/attention_{j}", theirs + names.attention.format(j), names)
    return found


def _ends(part: str, names: Names, attends: bool) -> list[Entry]:
    """The middle, and what is behind the levels."""
    found = []
    for j, theirs in enumerate(names.middle_blocks):
        found += block_entries(f"{part}/middle/block_{j}", f"{part}.{theirs}", names, False)
    if attends:
        found += attention_entries(f"{part}/middle/attention", f"{part}.{names.middle_attention}", names)
    found += norm(f"{part}/norm_out", f"{part}.{names.norm_out}")
    return found + convolution(f"{part}/conv_out", f"{part}.conv_out")


def is_layout(tensors: Shapes, names: Names) -> bool:
    """Whether there is an encoder under these names."""
    first = names.down.format(0) + names.block.format(0)
    return "encoder.conv_in.weight" in tensors and f"{first}conv1.weight" in tensors


def layout_kwargs(tensors: Shapes, names: Names) -> dict[str, Any]:
    """Arguments of a model for sizes that shapes say, see `vit_jax.nn.autoencoder.Layout`.

    Raises:
        UserError: for widths that are no multiples of the first one.
    """
    channels = shape_of(tensors, "encoder.conv_in.weight", 4)[0]
    multipliers: list[int] = []
    attention: dict[str, list[int]] = {"encoder": [], "decoder": []}

    def level(i: int) -> str:
        return names.down.format(i)

    while (first := f"{level(len(multipliers))}{names.block.format(0)}conv1.weight") in tensors:
        width = shape_of(tensors, first, 4)[0]
        if width % channels:
            raise UserError(
                f"The tensor {first!r} has {width} channels, no multiple of the {channels} of the first convolution",
                "Only such autoencoders can be read",
            )
        multipliers.append(width // channels)
    for i in range(len(multipliers)):
        for part, theirs in (("encoder", level(i)), ("decoder", names.up_level(i, len(multipliers)))):
            if theirs + names.attention.format(0) + f"{names.norm}.weight" in tensors:
                attention[part].append(i)
    blocks = 0
    while level(0) + names.block.format(blocks) + "conv1.weight" in tensors:
        blocks += 1
    kwargs: dict[str, Any] = {
        "channels": channels, "multipliers": multipliers, "num_blocks": blocks, "attention_levels": attention["encoder"]
    }  # fmt: skip
    if "decoder.conv_in.weight" in tensors and attention["decoder"] != attention["encoder"]:
        kwargs["decoder_attention_levels"] = attention["decoder"]
    if f"encoder.{names.middle_attention}{names.norm}.weight" not in tensors:
        kwargs["middle_attention"] = False
    return kwargs


def diffusers_names(tensors: Shapes) -> Names:
    """Those that a file of diffusers has: the older ones where its attention says so."""
    old = f"encoder.{DIFFUSERS.middle_attention}{OLD_DIFFUSERS.projections[0]}.weight"
    return OLD_DIFFUSERS if old in tensors else DIFFUSERS


def moment_entries(convs: bool) -> list[Entry]:
    """The 1x1 convolutions before and behind continuous latents."""
    found = convolution("quant_conv", "quant_conv") + convolution("post_quant_conv", "post_quant_conv")
    return found if convs else []


def has_plain_codes(model: VQGAN) -> bool:
    """Whether codes are looked up by their distance, as other libraries do. Those of moving averages are written as the
    parameters that they have."""
    return not model.cosine


def assumed_scale(kwargs: Mapping[str, Any]) -> tuple[float, tuple[str, ...]]:
    """The scale of latents where a file does not say it, and a remark on that.

    Args:
        kwargs: those of `layout_kwargs`, and `latent_width`.
    """
    for name, size in VARIANTS.items():
        levels = kwargs["attention_levels"]
        found = (kwargs["multipliers"], levels, kwargs.get("decoder_attention_levels", levels), kwargs["latent_width"])
        if size.scale is not None and found == (*map(list, size[:3]), size.latent_width):
            return size.scale, (f"the scale of its latents is taken for that of {name}, {size.scale}",)
    return 1.0, ("nothing says the scale of its latents: 1 is taken; overrides={'scale': ...} sets it",)


FIRST_STAGE = "first_stage_model."
TEXT_STAGE = "cond_stage_model.transformer."
OPEN_TEXT_STAGE = "cond_stage_model.model."  # of Stable Diffusion 2
SCALE = "scale_factor"  # beside it in a whole model
# What only training needs: the perceptual network and the discriminator, and averages.
_TRAINING = ("loss.*", "model_ema.*", "quantize.embedding.cluster_size", "quantize.embedding.embed_avg")


def is_whole_pipeline(tensors: Shapes) -> bool:
    """Whether a file of CompVis has all that draws an image of a text: U-Net, autoencoder and CLIP's text tower."""
    texts = {f"{TEXT_STAGE}text_model.final_layer_norm.weight", f"{OPEN_TEXT_STAGE}ln_final.weight"}
    return (
        not texts.isdisjoint(tensors)
        and "model.diffusion_model.out.2.weight" in tensors
        and any(name.startswith(FIRST_STAGE) for name in tensors)
    )


def first_stage(tensors: Shapes) -> tuple[str, dict[str, tuple[int, ...]], tuple[str, ...]] | None:
    """The autoencoder in a file of CompVis: what is before its names, its tensors without that, and remarks. None for
    whole pipelines and other files, those of an encoder alone too, and for the tokenizers of VAR and HART, whose 3x3
    convolution and joined projections tell them apart."""
    if is_whole_pipeline(tensors):
        return None
    prefix = FIRST_STAGE if any(name.startswith(FIRST_STAGE) for name in tensors) else ""
    own = {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}
    if not is_layout(own, COMPVIS) or "decoder.conv_in.weight" not in own:
        return None
    if own.get("quant_conv.weight", (0, 0, 1, 1))[2:] != (1, 1) or "encoder.mid.attn_1.qkv.weight" in own:
        return None
    remarks = ["the autoencoder of it is read, and the rest left out"] if len(own) < len(tensors) else []
    return prefix, own, tuple(remarks)


def compvis_map(entries: list[Entry], prefix: str) -> NameMap:
    """The entries under names that begin with `prefix`."""
    others = ("[!f]*",) if prefix else ()  # all that does not begin as the prefix does
    return dataclasses.replace(NameMap(entries, (), _TRAINING).below(theirs=prefix), ignored=others)
