"""Which collectives a compiled step holds, and that they are read right from XLA's text."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.tiny import tiny_config
from vit_jax.planning.collectives import collectives
from vit_jax.planning.rehearsal import rehearse
from vit_jax.training import sharding
from vit_jax.training.sharding import make_mesh


def compiled(**overrides):
    values = tiny_config(**overrides)
    return rehearse(values, classes=10, devices=jax.devices()).program.lower().compile().as_text()


def kinds(found):
    return {(c["kind"], tuple(c["axes"])) for c in found}


def test_plain_classification_has_reductions_only():
    """Gradients and metrics are summed over the devices; nothing else is sent."""
    mesh = make_mesh({}, jax.devices())
    found = collectives(compiled(), mesh)
    assert kinds(found) == {("all-reduce", ("data",))}
    parameters = 4 * 13_000  # mu/4 has a little more, all in float32
    assert sum(c["bytes"] for c in found) > parameters


@pytest.mark.long
def test_mixup_adds_a_shift_by_one_row():
    """Each row is mixed with the one before it, so each device sends its last row's pixels and label to the next."""
    mesh = make_mesh({}, jax.devices())
    found = collectives(compiled(data__mix__mixup=0.2), mesh)
    assert kinds(found) == {("all-reduce", ("data",)), ("collective-permute", ("data",))}
    shifted = sum(c["bytes"] for c in found if c["kind"] == "collective-permute")
    row = 8 * 8 * 3 * 4 + 10 * 4
    assert shifted == row, "one row each, never the batch"


@pytest.mark.long
def test_accumulation_gathers_nothing():
    found = collectives(compiled(microbatch=8), make_mesh({}, jax.devices()))
    assert {kind for kind, _ in kinds(found)} <= {"all-reduce", "all-to-all", "collective-permute"}


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.long
def test_sharded_parameters_travel_and_activations_stay(scan, monkeypatch):
    """Left to itself the compiler splits the features of a scanned encoder, as the parameters are, and sends those."""
    monkeypatch.setattr(sharding, "_MIN_FSDP_ELEMENTS", 64)
    size = {"width": 64, "mlp_dim": 128, "num_heads": 2, "depth": 3, "scan": scan}
    overrides = {f"model__{name}": value for name, value in size.items()}
    text = compiled(**overrides, mesh__data=1, mesh__fsdp=8, data__image_size="(32, 32)", batch_size=64)
    found = collectives(text, make_mesh({"data": 1, "fsdp": 8}, jax.devices()))
    sent = {kind: sum(c["bytes"] for c in found if c["kind"] == kind) for kind in ("all-gather", "all-reduce")}
    block = 4 * (4 * 64**2 + 2 * 64 * 128)
    assert sent["all-gather"] < 2.2 * 3 * block, "each parameter for the forward and for the backward pass"
    assert sent["all-reduce"] < 1.2 * 3 * block, "gradients"


def test_axes_and_loops():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices())

    def local(x):
        def once(x, _):
            return jax.lax.all_gather(x, ("data", "fsdp"), tiled=True)[:2] + 1, None

        return jax.lax.psum(jax.lax.scan(once, x, length=3)[0].sum(), ("data", "fsdp", "tensor"))

    rows = PartitionSpec(("data", "fsdp"), "tensor")
    step = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=PartitionSpec(), check_vma=False)
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(mesh, rows))
    found = collectives(jax.jit(step).lower(x).compile().as_text(), mesh)
    gathers = [c for c in found if c["kind"] == "all-gather"]
    assert [(c["axes"], c["count"], c["bytes"]) for c in gathers] == [(["data", "fsdp"], 3, 3 * 8 * 2 * 4)]
    assert ("all-reduce", ("data", "fsdp", "tensor")) in kinds(found)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("f32[8]{0} all-gather-start(%x), replica_groups=[4,2]<=[2,4]T(1,0)", ("all-gather", ["data"], 32)),
        (
            "bf16[4,2]{1,0} reduce-scatter(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}",
            ("reduce-scatter", ["tensor"], 32),
        ),
        ("f32[4]{0} collective-permute(%x), source_target_pairs={{0,2},{2,0}}", ("collective-permute", ["fsdp"], 16)),
        (
            "f32[8]{0} all-reduce(%x), replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_0','axis_2'}",
            ("all-reduce", ["data", "tensor"], 32),
        ),
        (
            "((f32[4]{0}, f32[4]{0}), (f32[2]{0}, f32[2]{0})) reduce-scatter-start(%x, %y), replica_groups="
            "mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}",
            ("reduce-scatter", ["tensor"], 32),
        ),
        (
            "(f32[2]{0}, f32[3]{0}) all-reduce(%x, %y), replica_groups={}",
            ("all-reduce", ["data", "fsdp", "tensor"], 20),
        ),
    ],
)
def test_forms_of_groups(line, expected):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices())
    text = f"HloModule m\n\nENTRY %main (x: f32[4]) -> f32[4] {{\n  %a = {line}, to_apply=%add\n}}\n"
    assert [(c["kind"], c["axes"], c["bytes"]) for c in collectives(text, mesh)] == [expected]
