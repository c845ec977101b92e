"""What instructions read, write and compute, against sums on paper: of compiled programs, and of text as TPUs have it."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax.planning.hlo import parse, shapes_of
from vit_jax.planning.traffic import by_kind, counted_bytes, kernels


def counted(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return by_kind(kernels(jax.jit(function).lower(*arguments).compile().as_text()))


def of_kind(found, kind):
    return next((entry for entry in found if entry["kind"] == kind), {"count": 0, "bytes": 0, "flops": 0})


def test_a_loop_of_products():
    """5 times [64, 32] x [32, 32], of which each reads one matrix out of the five."""

    def five(x, matrices):
        return jax.lax.scan(lambda x, matrix: (x @ matrix, None), x, matrices)[0]

    found = counted(five, (64, 32), (5, 32, 32))
    product = of_kind(found, "product")
    assert product["count"] == 5 and product["flops"] == 5 * 2 * 64 * 32 * 32
    assert product["bytes"] == 5 * 4 * (2 * 64 * 32 + 32 * 32), "the slice is cut out by a kernel of its own"


def test_an_operand_that_is_used_twice_is_read_once():
    found = counted(lambda x: jnp.tanh(x) * x + x[::-1], (4096,))
    assert counted_bytes(found) == 2 * 4 * 4096


def test_a_chain_of_operations_that_is_deeper_than_python_s_stack():
    """Of 1,500 additions in one kernel the operand is read where the last one cuts it."""
    chain = ["%a0 = f32[64,256]{1,0} parameter(0)"]
    chain += [f"%a{i} = f32[64,256]{{1,0}} add(%a{i - 1}, %a{i - 1})" for i in range(1, 1501)]
    chain += ["ROOT %cut.2 = f32[8,256]{1,0} slice(%a1500), slice={[0:8], [0:256]}"]
    deep = "%deep (a0: f32[64,256]) -> f32[8,256] {\n  " + "\n  ".join(chain) + "\n}\n\nENTRY"
    call = "f32[8,256]{1,0} fusion(%x), kind=kLoop, calls=%deep"
    (found,) = kernels(LINES.replace("ENTRY", deep).replace("LINE", f"%it = {call}"))
    assert found.bytes == 2 * 4 * 8 * 256


LINES = """HloModule m

%fused (p0: f32[64,256], p1: s32[], p2: f32[1,256]) -> f32[64,256] {
  %p0 = f32[64,256]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[1,256]{1,0} parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[64,256]{1,0} dynamic-update-slice(%p0, %p2, %p1, %zero)
}

%rows (p0.1: f32[64,256]) -> f32[8,256] {
  %p0.1 = f32[64,256]{1,0} parameter(0)
  %cut = f32[8,256]{1,0} slice(%p0.1), slice={[0:8], [0:256]}
  ROOT %exp = f32[8,256]{1,0} exponential(%cut)
}

%late (p0.2: f32[64,256]) -> f32[8,256] {
  %p0.2 = f32[64,256]{1,0} parameter(0)
  %exp.1 = f32[64,256]{1,0} exponential(%p0.2)
  %twice = f32[64,256]{1,0} multiply(%exp.1, %p0.2)
  ROOT %cut.1 = f32[8,256]{1,0} slice(%twice), slice={[0:8], [0:256]}
}

ENTRY %main (x: f32[64,256], i: s32[], row: f32[1,256]) -> f32[64,256] {
  %x = f32[64,256]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %row = f32[1,256]{1,0} parameter(2)
  %heads = bf16[2,197,64]{1,2,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  LINE
}
"""


@pytest.mark.parametrize(
    ("line", "kind", "size", "on_chip"),
    [
        ("f32[64,256]{1,0} fusion(%x, %i, %row), kind=kLoop, calls=%fused", "copy", 4 * (1 + 256 + 256), 0),
        ("f32[8,256]{1,0:T(8,128)S(1)} fusion(%x), kind=kLoop, calls=%rows", "elementwise", 4 * 2 * 2048, 4 * 2048),
        # What is cut out in the end is all that is computed.
        ("f32[8,256]{1,0} fusion(%x), kind=kLoop, calls=%late", "elementwise", 4 * 2 * 2048, 0),
        # Minor first: 197 is padded to 256, and 64 fits.
        (
            "bf16[2,64,197]{2,1,0:T(8,128)(2,1)} copy(%heads)",
            "copy",
            2 * 2 * 2 * 64 * 256,
            2 * 2 * 64 * 256,
        ),
        (
            "((f32[64,256]{1,0:T(8,128)}), f32[16,256]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={}",
            "prefetch",
            4 * 16 * 256,
            0,
        ),
        (
            "(f32[64,256]{1,0:T(8,128)S(1)}, f32[64,256]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)",
            "prefetch",
            4 * 64 * 256,
            0,
        ),
        ("(f32[64,256]{1,0}, f32[64,256]{1,0}, u32[]) copy-start(%x)", "copy", 2 * 4 * 64 * 256, 0),
        ("f32[64,256]{1,0} all-reduce(%x), replica_groups={}, to_apply=%add", "collective", 2 * 4 * 64 * 256, 0),
        (
            "(f32[64,256]{1,0}, f32[128,256]{1,0}) all-gather-start(%x), replica_groups={}, dimensions={0}",
            "collective",
            4 * (64 + 128) * 256,
            0,
        ),
    ],
)
def test_forms(line, kind, size, on_chip):
    found = kernels(LINES.replace("LINE", f"%it = {line}"))
    assert [(k.kind, k.bytes, k.on_chip) for k in found] == [(kind, size, on_chip)]


@pytest.mark.parametrize(
    ("shapes", "line", "flops"),
    [
        # Batches of matrix products in the guise of convolutions: heads and examples are places of a dilated window.
        (
            ("bf16[4,197,3,64]{1,3,2,0}", "bf16[4,197,3,64]{1,3,2,0}"),
            "f32[4,3,197,197]{2,3,1,0} convolution(%a, %b), window={size=4x3 stride=3x2 lhs_dilate=4x3}, "
            "dim_labels=0b1f_0o1i->01bf",
            2 * 4 * 3 * 197 * 197 * 64,
        ),
        # One product for query, key and value: most of the padded window is padding.
        (
            ("bf16[8,197,96]{2,1,0}", "bf16[96,3,2,48]{3,2,1,0}"),
            "bf16[8,197,3,2,48]{1,4,3,2,0} convolution(%a, %b), window={size=1x3x2 pad=0_0x2_2x1_1 "
            "rhs_reversal=0x1x1}, dim_labels=0bf12_i12o0->0b12f",
            2 * 8 * 197 * 96 * 3 * 2 * 48,
        ),
        (
            ("f32[2,14,14,8]{3,2,1,0}", "f32[3,3,8,16]{3,2,1,0}"),
            "f32[2,7,7,16]{3,2,1,0} convolution(%a, %b), window={size=3x3 stride=2x2 pad=0_1x0_1}, "
            "dim_labels=b01f_01io->b01f",
            2 * 2 * 20 * 20 * 8 * 16,
        ),
    ],
)
def test_operations_of_convolutions(shapes, line, flops):
    left, right = shapes
    if "12_i12o0" in line:  # the first place is the examples, the other two are made up
        left, right = left.replace("8,197,96", "8,197,96,1,1"), right.replace("96,3,2,48", "96,3,2,48,1")
    text = (
        f"HloModule m\n\nENTRY %main (a: f32[], b: f32[]) -> f32[] {{\n  %a = {left} parameter(0)\n"
        f"  %b = {right} parameter(1)\n  ROOT %c = {line}\n}}\n"
    )
    assert [k.flops for k in kernels(text)] == [flops]


def test_a_kernel_says_itself_what_it_computes():
    call = (
        'bf16[2,197,64]{2,1,0} custom-call(%heads), custom_call_target="tpu_custom_call", backend_config='
        '{"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"7630","transcendentals":"2"}}}'
    )
    (found,) = kernels(LINES.replace("LINE", f"%it = {call}"))
    assert (found.kind, found.flops) == ("attention", 7630)


def test_shapes_and_operands():
    tiled, scalar, nested = shapes_of("(bf16[3,5]{0,1:T(8,128)(2,1)S(1)}, (s32[], pred[7]{0}))")
    assert (tiled.bytes, tiled.unpadded, tiled.space) == (2 * 8 * 128, 2 * 15, 1)
    assert (scalar.dims, nested.bytes) == ((), 7)
    module = parse(
        "ENTRY %m (a: f32[2]) -> f32[2] {\n  ROOT %x = f32[2]{0} add(f32[2]{0} %a, f32[2]{0} %b), to=%c\n}\n"
    )
    assert module.computations["m"]["x"].operands == ("a", "b")
