"""Names of chips and topologies."""

import pytest

from vit_jax import UserError
from vit_jax.training.chips import TPUS, chip_of, parse_topology, peak_flops


def test_peaks():
    assert (peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("NVIDIA B200")) == (989e12, 2250e12)
    assert (peak_flops("TPU v5 lite"), peak_flops("TPU v5p"), peak_flops("TPU v5")) == (197e12, 459e12, 459e12)
    assert peak_flops("cpu") is None
    assert chip_of("TPU v6 lite") is TPUS["v6e"]


def test_topologies():
    assert parse_topology("v5e:16x16") == ("v5e", (16, 16))
    assert parse_topology("v4:4x4x4") == ("v4", (4, 4, 4))
    assert parse_topology("cpu:8") == ("cpu", (8,))
    assert [parse_topology(f"h100:{n}")[1] for n in (1, 2, 4, 8, 24, 1024)] == [(1,), (2,), (4,), (8,), (24,), (1024,)]


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5:4x4", "There is no topology 'v5:4x4'. Did you mean"),
        ("h10:8", "There is no topology 'h10:8'. Did you mean 'h100'"),
        ("h100", "has no shape. Write it as in 'h100:8'"),
        ("b200:3", "3 GPUs make no hosts of 8. Ask for 1, 2, 4 or a multiple of 8 up to 1024"),
        ("a100:1032", "1032 GPUs make no hosts of 8"),
        ("h200:2x8", "has 2 dimensions. h200 has a number of devices"),
        ("v5e", "has no shape. Write it as in 'v5e:4x4'"),
        ("v5e:4x", "has no shape"),
        ("v5e:0x4", "has no shape"),
        ("v5e:4x4x4", "has 3 dimensions. v5e has 2"),
        ("v4:8x8", "has 2 dimensions. v4 has 3"),
        ("v5e:16x32", "There is no v5e of 16x32 chips. The largest is v5e:16x16"),
        ("cpu:2x2", "cpu:4"),
    ],
)
def test_topologies_that_there_are_not(topology, message):
    with pytest.raises(UserError, match=message):
        parse_topology(topology)
