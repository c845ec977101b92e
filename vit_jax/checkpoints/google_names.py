"""What all npz files of Google's code have in common: where the parameters lie, and how norms are kept."""

from collections.abc import Iterable

from vit_jax.checkpoints.name_map import Entry, Shapes, same

# Where parameters begin, and what may lie beside them in a file that holds a whole training state.
_BESIDE = {
    "": (),
    "params/": ("opt/*", "chrono/*", "extra/*"),
    "opt/target/": ("opt/state/*", "chrono/*", "extra/*"),
    "params/img/": ("opt/*", "chrono/*", "extra/*", "params/txt/*", "params/t", "params/b"),
}


def prefix_of(tensors: Iterable[str], landmark: str) -> str | None:
    """What stands before the name `landmark`, '', 'params/', 'opt/target/' or 'params/img/'; None if it is missing."""
    names = set(tensors)
    return next((prefix for prefix in _BESIDE if prefix + landmark in names), None)


def ignored(prefix: str) -> tuple[str, ...]:
    """Patterns of what is not a parameter of the image model in a file with this prefix."""
    return _BESIDE[prefix]


def kernel(ours: str, theirs: str) -> Entry:
    """A kernel, which their code and ours keep alike."""
    return same(f"{ours}/kernel", f"{theirs}/kernel")


def dense(ours: str, theirs: str) -> list[Entry]:
    """A kernel and a bias."""
    return [kernel(ours, theirs), same(f"{ours}/bias", f"{theirs}/bias")]


def norm(ours: str, theirs: str, axes: int = 1, scale: str = "scale", bias: str = "bias") -> list[Entry]:
    """A norm's scale and bias; old group norms keep them with `axes` 4, as [1, 1, 1, C]."""
    shape, stored = (None, None) if axes == 1 else ((-1,), (*[1] * (axes - 1), -1))
    return [
        same(f"{ours}/{name}", f"{theirs}/{their_name}", shape, stored)
        for name, their_name in (("scale", scale), ("bias", bias))
    ]


def axes_of(tensors: Shapes, name: str) -> int:
    """The number of axes of a tensor, 1 when it is not there."""
    return len(tensors.get(name, (0,)))
