"""benchmarks/scaling.py: what theory says of a step is what a compiled step sends."""

import jax
import pytest

from benchmarks.scaling import Row, line, row, sent_bytes
from tests.tiny import tiny_config
from vit_jax.planning.rehearsal import rehearse
from vit_jax.planning.topology import topology


def test_a_ring_sends_reductions_twice_and_gathers_once():
    mesh = {"data": 2, "fsdp": 4, "tensor": 1}
    sent = {
        (kind, axes): sent_bytes({"kind": kind, "axes": axes, "bytes": 800}, mesh)
        for kind, axes in (("all-reduce", ("fsdp",)), ("all-gather", ("data", "fsdp")), ("reduce-scatter", ("data",)))
    }
    assert list(sent.values()) == [1200, 700, 400]


def test_a_row_says_what_it_compares():
    made = Row("v5e:2x2", "data", {"data": 4, "fsdp": 1, "tensor": 1}, [], 66_000_000, 60_000_000)
    assert line(made) == "| v5e:2x2 | data 4 | 66.0 MB | 60.0 MB | 1.10 |  |"


@pytest.mark.long
def test_data_parallelism_sends_the_gradients_once():
    found = row(tiny_config(), topology("cpu:8"), "data", None)
    assert found.mesh == {"data": 8, "fsdp": 1, "tensor": 1}
    # Beside them the sums of metrics.
    assert found.theory <= found.sent <= found.theory + 100
    params = rehearse(tiny_config(), 1000, jax.devices()[:8]).program.params
    assert found.theory == pytest.approx(2 * 7 / 8 * 4 * sum(leaf.size for leaf in jax.tree.leaves(params)), abs=1)
