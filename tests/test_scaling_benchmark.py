"""benchmarks/scaling.py: what theory says of a step is what a compiled step sends."""

import jax
import pytest

from benchmarks.scaling import Row, line, sent_bytes, theory
from tests.tiny import tiny_config
from vit_jax.planning.collectives import collectives
from vit_jax.planning.rehearsal import rehearse
from vit_jax.tasks import static_argument


def test_a_ring_sends_reductions_twice_and_gathers_once():
    mesh = {"data": 2, "fsdp": 4, "tensor": 1}
    sent = {
        (kind, axes): sent_bytes({"kind": kind, "axes": axes, "bytes": 800}, mesh)
        for kind, axes in (("all-reduce", ("fsdp",)), ("all-gather", ("data", "fsdp")), ("reduce-scatter", ("data",)))
    }
    assert list(sent.values()) == [1200, 700, 400]


def test_a_row_says_what_it_compares():
    row = Row("v5e:2x2", "data", {"data": 4, "fsdp": 1, "tensor": 1}, [], 66_000_000, 60_000_000)
    assert line(row) == "| v5e:2x2 | data 4 | 66.0 MB | 60.0 MB | 1.10 |  |"


@pytest.mark.long
def test_data_parallelism_sends_the_gradients_once():
    rehearsal = rehearse(tiny_config(), 10, jax.devices()[:8])
    text = rehearsal.program.lower(static_argument(rehearsal.task, 0)).compile().as_text()
    mesh = dict(rehearsal.mesh.shape)
    sent = sum(sent_bytes(each, mesh) for each in collectives(text, rehearsal.mesh))
    # Beside them the sums of metrics.
    assert theory(rehearsal) <= sent <= theory(rehearsal) + 100
    parameters = sum(leaf.size for leaf in jax.tree.leaves(rehearsal.program.params))
    assert theory(rehearsal) == pytest.approx(2 * 7 / 8 * 4 * parameters)
