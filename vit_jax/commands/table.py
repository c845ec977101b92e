"""Tables for the terminal."""

from collections.abc import Mapping, Sequence

from vit_jax.errors import printable


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by width: text to the left, everything after the first column to the right.

    Cells are made printable: names in them may be strangers'.
    """
    header, *rows = ([printable(cell) for cell in row] for row in (header, *rows))
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *others = row
        return "  ".join(
            [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        ).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def show_metrics(metrics: Mapping[str, float]) -> str:
    """Scalars by name; a metric shares a row with its `_std`, and with the bounds `_low` and `_high` of its range."""
    rows = []
    for name, value in metrics.items():
        if any(name.endswith(end) and name.removesuffix(end) in metrics for end in ("_std", "_low", "_high")):
            continue
        shown, spread = f"{value:.4g}", metrics.get(f"{name}_std")
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        shown += f" ± {spread:.2g}" if spread is not None else ""
        shown += f" ({low:.4g} to {high:.4g})" if low is not None and high is not None else ""
        rows.append([name, shown])
    return table(["metric", "value"], rows)
