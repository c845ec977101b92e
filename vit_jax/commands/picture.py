"""One picture of a report."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure, the name of its file, and how to read it."""

    name: str
    figure: Figure
    caption: str
