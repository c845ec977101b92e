"""The parameters of `vit_jax.models.bit.BiTEncoder` in anybody's names: one table of names for each library."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.name_map import Entry, conv, norm, same
from vit_jax.models.bit import STAGE_SIZES
from vit_jax.nn.residual import unit_name


@dataclasses.dataclass(frozen=True)
class ResNetNames:
    """Where a library keeps the parts of a ResNet.

    Args:
        root_conv: name of the 7x7 convolution.
        root_norm: of the norm after it (post-activation).
        final_norm: of the norm after the last stage (pre-activation).
        unit: gives what the names in a unit begin with; stage and unit count from 0.
        convs: names in a unit, like those that follow.
        norms: with pre-activation these come before the convolutions of the same number.
        proj_conv: the shortcut's convolution.
        proj_norm: the norm after it (post-activation).
        conv: entry for a convolution, from our name without 'kernel' and theirs.
        norm: entries for a norm, from our name without 'scale' and 'bias' and theirs.
    """

    root_conv: str
    root_norm: str
    final_norm: str
    unit: Callable[[int, int], str]
    convs: tuple[str, str, str]
    norms: tuple[str, str, str]
    proj_conv: str
    proj_norm: str
    conv: Callable[[str, str], Entry]
    norm: Callable[[str, str], Sequence[Entry]]

    def entries(self, ours: str, stage_sizes: Sequence[int], preactivation: bool) -> list[Entry]:
        """All entries of the ResNet whose parameters of ours begin with `ours`."""
        entries = [self.conv(f"{ours}/root_conv", self.root_conv)]
        if not preactivation:
            entries += self.norm(f"{ours}/root_norm", self.root_norm)
        for stage, size in enumerate(stage_sizes):
            for unit in range(size):
                inner, theirs = f"{ours}/{unit_name(stage, unit)}", self.unit(stage, unit)
                for number in range(3):
                    entries.append(self.conv(f"{inner}/conv{number + 1}", theirs + self.convs[number]))
                    entries += self.norm(f"{inner}/norm{number + 1}", theirs + self.norms[number])
                # Every stage widens the map, so that its first unit has a projection.
                if unit == 0:
                    entries.append(self.conv(f"{inner}/proj_conv", theirs + self.proj_conv))
                    if not preactivation:
                        entries += self.norm(f"{inner}/proj_norm", theirs + self.proj_norm)
        return entries + (list(self.norm(f"{ours}/norm", self.final_norm)) if preactivation else [])


def torch_conv(ours: str, theirs: str) -> Entry:
    """A PyTorch convolution without a bias."""
    return conv(f"{ours}/kernel", f"{theirs}.weight")


def conv_norm(conv_ours: str, norm_ours: str, conv_theirs: str, norm_theirs: str) -> list[Entry]:
    """A convolution without a bias, and the norm after it with its statistics."""
    statistics = (("mean", "running_mean"), ("var", "running_var"))
    return [
        conv(f"{conv_ours}/kernel", f"{conv_theirs}.weight"),
        *norm(norm_ours, norm_theirs),
        *(same(f"batch_stats/{norm_ours}/{ours}", f"{norm_theirs}.{theirs}") for ours, theirs in statistics),
    ]


def timm_names(prefix: str = "", stem: str = "stem.") -> ResNetNames:
    """timm's ResNetV2; its root alone has no `stem` in its names."""
    return ResNetNames(
        root_conv=f"{prefix}{stem}conv",
        root_norm=f"{prefix}{stem}norm",
        final_norm=f"{prefix}norm",
        unit=lambda stage, unit: f"{prefix}stages.{stage}.blocks.{unit}.",
        convs=("conv1", "conv2", "conv3"),
        norms=("norm1", "norm2", "norm3"),
        proj_conv="downsample.conv",
        proj_norm="downsample.norm",
        conv=torch_conv,
        norm=norm,
    )


def stage_sizes(tensors: Iterable[str], pattern: str) -> tuple[int, ...]:
    """Units in each stage, counted by names that match `pattern`, whose two groups are the numbers of both."""
    found = {match.groups() for name in tensors if (match := re.fullmatch(pattern, name, re.ASCII))}
    counts = Counter(int(stage) for stage, _ in found if len(stage) <= 2)  # other names belong to no model
    return tuple(counts[stage] for stage in sorted(counts))


def bit_size(sizes: Sequence[int], width: int) -> dict[str, Any]:
    """The arguments of `vit_jax.models.bit.build` for these stages and this width of the stem."""
    for layers, known in STAGE_SIZES.items():
        if tuple(sizes) == known and width % 64 == 0:
            return {"variant": f"R{layers}x{width // 64}"}
    return {"variant": "R50x1", "stage_sizes": list(sizes), "width": width}


def differs(kwargs: Mapping[str, Any], required: Mapping[str, Any]) -> bool:
    """Whether any of the `required` arguments has another value."""
    return any(kwargs[name] != value for name, value in required.items())
