"""Nested dicts, such as parameters, in two parts."""

from jaxtyping import PyTree


def split(tree: dict, mask: PyTree) -> tuple[dict, dict]:
    """A nested dict as (leaves whose mask is False, leaves whose mask is True), without empty branches."""
    kept, masked = {}, {}
    for key, value in tree.items():
        if isinstance(value, dict):
            parts = split(value, mask[key])
            kept |= {key: parts[0]} if parts[0] else {}
            masked |= {key: parts[1]} if parts[1] else {}
        else:
            (masked if mask[key] else kept)[key] = value
    return kept, masked


def mask_of(tree: dict, part: dict) -> dict:
    """For each leaf of `tree` whether `part` has it."""
    return {
        key: mask_of(value, part.get(key, {})) if isinstance(value, dict) else key in part
        for key, value in tree.items()
    }


def merge(first: dict, second: dict) -> dict:
    """The inverse of `split`; of a leaf that both have, that of `second`."""
    merged = dict(first)
    for key, value in second.items():
        merged[key] = merge(merged[key], value) if key in merged and isinstance(value, dict) else value
    return merged
