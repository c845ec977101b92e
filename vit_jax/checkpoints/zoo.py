"""Published checkpoints that `vit_jax.load` reads: the table in zoo.csv, which is all that there is to edit.

What a row says was looked up: the address in the library's own list or its authors' page, the number of parameters of
the model that is built, the figure where `source` says. A figure that could not be looked up is left empty.
"""

import csv
import dataclasses
import fnmatch
import functools
from importlib import resources


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the table.

    Args:
        family: the module in `vit_jax.checkpoints.families` that reads it.
        model: the module in `vit_jax.models` that it becomes, with the variant where there is one: "vit:B/16".
        address: what `vit_jax.load` is given; or a pickle, which docs/weights.md says how to convert.
        parameters: how many it has; None where that was not looked up.
        image_size: height and width in pixels; None for a model that takes no images, or any size.
        figure: what its authors, or whoever measured it, report: "84.53 ImageNet top-1".
        source: where the figure stands.
    """

    family: str
    model: str
    address: str
    parameters: int | None
    image_size: tuple[int, int] | None
    figure: str
    source: str

    @property
    def url(self) -> str:
        """Its page or its file on the web."""
        if not self.address.startswith("hf://"):
            return self.address
        owner, repository, *file = self.address.removeprefix("hf://").split("/", 2)
        repository, _, revision = repository.partition("@")
        page = f"https://huggingface.co/{owner}/{repository}"
        if file:
            return f"{page}/resolve/{revision or 'main'}/{file[0]}"
        return f"{page}/tree/{revision}" if revision else page

    @property
    def size(self) -> str:
        """The image size for people: "224", "720x1280"."""
        if self.image_size is None:
            return ""
        height, width = self.image_size
        return str(height) if height == width else f"{height}x{width}"

    @property
    def millions(self) -> str:
        """The parameters for people."""
        return "" if self.parameters is None else f"{self.parameters / 1e6:,.1f} M"


@functools.cache
def zoo() -> tuple[Published, ...]:
    """All rows, family by family."""
    text = resources.files(__package__).joinpath("zoo.csv").read_text(encoding="utf-8")
    return tuple(_row(row) for row in csv.DictReader(text.splitlines()))


def find(pattern: str = "*") -> list[Published]:
    """The rows whose model, address or family is like a pattern with * and ?; without them, has it in it."""
    pattern = pattern.lower()
    pattern = pattern if {*"*?["} & {*pattern} else f"*{pattern}*"

    def fits(row: Published) -> bool:
        return any(fnmatch.fnmatchcase(text.lower(), pattern) for text in (row.model, row.address, row.family))

    return [row for row in zoo() if fits(row)]


def as_markdown() -> str:
    """The tables of docs/models.md, one for each family."""
    parts = []
    for family in dict.fromkeys(row.family for row in zoo()):
        rows = [row for row in zoo() if row.family == family]
        lines = [f"### {family}", "", "| checkpoint | model | parameters | pixels | figure |", "| --- " * 5 + "|"]
        for row in rows:
            figure = f"{row.figure} ({row.source})" if row.figure else ""
            name = f"[{row.address.removeprefix('https://')}]({row.url})"
            lines.append(f"| {name} | {row.model} | {row.millions} | {row.size} | {figure} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _row(row: dict[str, str]) -> Published:
    sides = [int(side) for side in row["image_size"].split("x") if side]
    return Published(
        family=row["family"],
        model=row["model"],
        address=row["address"],
        parameters=int(row["parameters"]) if row["parameters"] else None,
        image_size=(sides[0], sides[-1]) if sides else None,
        figure=row["figure"],
        source=row["source"],
    )
