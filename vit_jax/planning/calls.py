"""What calls of libraries and of kernels compute, read from XLA's text form.

cuBLAS is called as `__cublas$gemm` and `__cublas$lt$matmul` (bias and activation may be part of the product), cuDNN's
convolutions as `__cudnn$conv...` and its attention as `__cudnn$fmha...`. On TPUs the one kernel of ours, attention, is
a `tpu_custom_call`, which says itself what it computes.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from vit_jax.planning.hlo import Instruction, Shape


def library_kind(each: Instruction) -> str | None:
    """ "product" or "attention" for a call of a library, None for any other instruction."""
    target = _target(each)
    if target.startswith("__cudnn$fmha") or target == "tpu_custom_call":
        return "attention"
    return "product" if target.startswith(("__cublas$", "__cudnn$conv")) else None


def results_of(each: Instruction) -> tuple[Shape, ...]:
    """The arrays that a call computes: without the workspace, which comes last and stays in caches."""
    return each.shapes[:-1] if len(each.shapes) > 1 and each.shapes[-1].kind in ("s8", "u8") else each.shapes


def library_flops(each: Instruction, operands: Sequence[Instruction]) -> int:
    """Multiplications and additions of a call, operands in order.

    Attention computes two products forward and, as it keeps no weights, five backward; half of them under a causal
    mask, and those of the window under a window.
    """
    target = _target(each)
    if target == "tpu_custom_call":
        said = re.search(r'"cost_estimate":\{"flops":"?(\d+)', each.rest)
        return int(said[1]) if said else 0
    left, right = operands[0].shapes[0], operands[1].shapes[0]
    if target.startswith("__cudnn$conv"):
        return _convolution(each, target, left, right)
    config = _backend_config(each)
    if target.startswith("__cublas$"):
        numbers = config["gemm_backend_config"]["dot_dimension_numbers"]
        contracted = math.prod(left.dims[int(i)] for i in numbers["lhs_contracting_dimensions"])
        return 2 * results_of(each)[0].size * contracted
    details = config["cudnn_fmha_backend_config"]
    batch, heads, queries, keys = (int(n) for n in details["intermediate_tensor_shape"]["dimensions"])
    width = left.size // (batch * heads * queries)
    pairs = queries * keys
    if "CAUSAL" in details["mask_type"]:
        window = int(details.get("sliding_window_length", 0)) or keys
        pairs = sum(min(q + 1, window, keys) for q in range(queries))
    return 2 * (5 if "Backward" in target else 2) * batch * heads * pairs * width


def _target(each: Instruction) -> str:
    return each.attribute("custom_call_target").strip('"') if each.operation == "custom-call" else ""


def _backend_config(each: Instruction) -> dict[str, Any]:
    place = each.rest.find("backend_config=")
    return json.JSONDecoder().raw_decode(each.rest[place + len("backend_config=") :])[0]


def _convolution(each: Instruction, target: str, left: Shape, right: Shape) -> int:
    """As many as the forward convolution has, those with padding too."""
    result = results_of(each)[0]
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.rest)
    kernel, out = right, result
    if "BackwardInput" in target:
        out = left
    elif "BackwardFilter" in target:
        kernel, out = result, right
    places = math.prod(size for size, name in zip(kernel.dims, labels[2], strict=True) if name != "o")
    return 2 * out.size * places
