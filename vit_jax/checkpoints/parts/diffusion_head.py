"""The diffusion head as the authors of MAR name it (github.com/LTH14/mar), and those of HART after them."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import Entry, Shapes, dense, linear, norm, same, shape_of
from vit_jax.nn.stack import block_name

_DEPTHS = 4096  # more blocks than anybody has


def arguments_of(tensors: Shapes, theirs: str) -> dict[str, int]:
    """`head_width` and `head_depth`, as the shapes have them.

    Args:
        theirs: what stands before all names, such as "diffloss.net.".
    """
    width = shape_of(tensors, f"{theirs}input_proj.weight", 2)[0]
    depth = next(i for i in range(_DEPTHS) if f"{theirs}res_blocks.{i}.in_ln.weight" not in tensors)
    return {"head_width": width, "head_depth": depth}


def entries(ours: str, theirs: str, kwargs: Mapping[str, Any]) -> list[Entry]:
    """All parameters of a head.

    Args:
        ours, theirs: what stands before all names, with its slash or dot.
        kwargs: with `head_width` and `head_depth`.
    """
    width = kwargs["head_width"]

    def modulation(ours: str, theirs: str, parts: int) -> list[Entry]:
        shape = (parts, width)
        return [
            linear(f"{ours}/kernel", f"{theirs}.weight", (width, *shape), out_axes=2),
            same(f"{ours}/bias", f"{theirs}.bias", shape, (parts * width,)),
        ]

    found = [
        *dense(f"{ours}input", f"{theirs}input_proj"),
        *dense(f"{ours}condition", f"{theirs}cond_embed"),
        *dense(f"{ours}time/fc1", f"{theirs}time_embed.mlp.0"),
        *dense(f"{ours}time/fc2", f"{theirs}time_embed.mlp.2"),
        *modulation(f"{ours}modulation", f"{theirs}final_layer.adaLN_modulation.1", 2),
        *dense(f"{ours}output", f"{theirs}final_layer.linear"),
    ]
    for i in range(kwargs["head_depth"]):
        block, name = f"{ours}{block_name(i)}", f"{theirs}res_blocks.{i}"
        found += norm(f"{block}/norm", f"{name}.in_ln")
        found += dense(f"{block}/fc1", f"{name}.mlp.0") + dense(f"{block}/fc2", f"{name}.mlp.2")
        found += modulation(f"{block}/modulation", f"{name}.adaLN_modulation.1", 3)
    return found
