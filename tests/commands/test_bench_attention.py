"""The board: what kinds of attention cost and how that grows; what does not fit is never tried."""

import json
import time

import jax
import pytest

from vit_jax.commands import board, board_layers
from vit_jax.commands.main import main
from vit_jax.planning import memory

TINY = ["bench", "attention", "--width", "8", "--heads", "2", "--rounds", "1", "--warmup", "0"]


@pytest.mark.long
def test_layers_are_measured_and_drawn(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(board_layers, "FEWEST_TOKENS", 64)
    output = tmp_path / "board.html"
    argv = [*TINY, "--kinds", "softmax", "--grid", "4,8,12", "--output", str(output)]
    assert main([*argv, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["width"] == 8 and results["load_average"] >= 0
    for row, tokens in zip(results["rows"], (16, 64, 144), strict=True):
        assert row["tokens"] == tokens and row["flops"] == 4 * tokens**2 * 8
        assert row["layer_flops"] == row["flops"] + 2 * tokens * 8 * 4 * 8
        assert row["xla_flops"] > row["layer_flops"], "XLA counts the softmax's own arithmetic too"
        for mode in board.MODES:
            found = row[mode]
            assert 0 < found["seconds_min"] <= found["seconds"] and found["cpu_seconds"] > 0
            assert found["needed_bytes"] > found["temporaries_bytes"]
        assert row["training"]["temporaries_bytes"] >= 4 * 2 * tokens**2, "the weights of two heads"
    assert results["exponents"]["softmax"]["flops"] == {"tokens": 2.0, "resolution": 4.0}
    assert results["exponents"]["softmax"]["temporaries"]["tokens"] > 1
    assert output.read_text().count("data:image/png") == 1


def test_what_does_not_fit_is_said_and_not_run(capsys, monkeypatch):
    monkeypatch.setattr(board, "free_bytes", lambda: 20_000)
    assert main([*TINY, "--kinds", "softmax", "--grid", "4,8"]) == 0
    out = capsys.readouterr().out
    assert "softmax at 8x8 needs" in out and "in training, and" in out and "left out" in out
    assert out.count("4x4") == 1
    monkeypatch.setattr(board, "free_bytes", lambda: 100)
    assert main([*TINY, "--kinds", "softmax", "--grid", "8"]) == 2
    assert "Nothing of this board fits in memory: softmax at 8x8 needs" in capsys.readouterr().err


def test_a_program_that_does_not_fit_is_never_started():
    compiled = board.compiled(jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((1000,), "float32")))

    def start():
        raise AssertionError

    measured = board.measure({"a": {"forward": board.Program(compiled, start)}}, 1, 0, 7_999, "8x8")
    assert measured["a"]["forward"]["needed_bytes"] == 8_000 and "skipped" in measured["a"]["forward"]


def test_no_program_pays_for_what_the_one_before_it_left():
    """As when the memory of softmax is given back while the next kind runs."""
    compiled = board.compiled(jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((10,), "float32")))
    order = []

    def program(name):
        def once():
            if order and order[-1] != name:
                time.sleep(0.2)
            order.append(name)

        return {"forward": board.Program(compiled, lambda: once)}

    measured = board.measure({name: program(name) for name in "ab"}, rounds=3, warmup=1, free=None, place="8x8")
    assert "".join(order) == "aabb" * 3
    assert all(measured[name]["forward"]["seconds"] < 0.2 for name in "ab")


def test_growth_is_a_slope():
    row = {mode: {"seconds": None, "temporaries_bytes": 1} for mode in board.MODES}
    rows = [
        {
            **row,
            "tokens": t,
            "flops": 3 * t**2 if t > 64 else 1,
            "forward": {"seconds": 1e-6 * t**1.5, "temporaries_bytes": 0},
        }
        for t in (64, 1024, 4096)
    ]
    rows[0]["forward"]["seconds"] = 1.0  # below those that count
    del rows[2]["training"]["seconds"]  # left out
    found = board.exponents(rows, "tokens", 1024)
    assert found["flops"] == {"tokens": 2.0, "resolution": 4.0}
    assert found["forward"] == {"tokens": 1.5, "resolution": 3.0} and found["training"] is None


def test_growth_of_each_kind_is_of_its_own_rows():
    """Those of few tokens do not count."""
    half = {"seconds": 1.0, "temporaries_bytes": 8}
    rows = [
        {"name": kind, "tokens": t, "flops": t**power if t > 100 else 1, **dict.fromkeys(board.MODES, half)}
        for kind, power in (("softmax", 2), ("linear", 1))
        for t in (64, board_layers.FEWEST_TOKENS, 4 * board_layers.FEWEST_TOKENS)
    ]
    found = board_layers.growth(rows)
    assert {kind: each["flops"]["tokens"] for kind, each in found.items()} == {"softmax": 2.0, "linear": 1.0}


def test_memory_that_may_be_taken(tmp_path, monkeypatch):
    """Four fifths of what Linux would give, or of what a container's limit leaves."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes() == int(0.8 * 50 * 1024)
    (tmp_path / "memory.max").write_text("30000\n")
    (tmp_path / "memory.current").write_text("10000\n")
    assert memory.free_bytes() == 16_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() == 40_960


@pytest.mark.long
def test_whole_models(capsys, tmp_path):
    output = tmp_path / "models.html"
    argv = ["bench", "attention", "--models", "vit:mu/16", "--sizes", "32", "--rounds", "1"]
    argv += ["--batch-size", "8", "--output", str(output), "--topology", "cpu:1"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "planned step" in out and "vit:mu/16  32x32" in out and "Models, batch 8" in out and output.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--kinds", "softmaxx"], "There is no kind of attention 'softmaxx'. Did you mean 'softmax'"),
        (["--width", "97"], "A width of 97 does not divide into 3 heads"),
        (["--grid", "16,x"], "--grid is '16,x'"),
        (["--grid", "0"], "--grid is '0'"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--sizes", "224"], "--sizes is of models"),
        (["--models", "vit:S/16", "--width", "96"], "--width is of layers"),
        (["--models", "vit"], "--models has 'vit'. Write NAME:VARIANT"),
        (["--models", "vitt:S/16", "--sizes", "32"], "no model named 'vitt'"),
        (["--output", "board.png"], "does not end in .html"),
    ],
)
def test_mistakes(capsys, argv, message):
    assert main(["bench", "attention", *argv]) == 2
    assert message in capsys.readouterr().err
