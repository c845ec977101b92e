"""Plans for GPUs: what a CUDA program's text says against sums on paper, rooflines, hosts, and what is missing."""

import importlib.util
import json
import math
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.commands.plan import _advice, _show
from vit_jax.planning import cuda
from vit_jax.planning.calls import library_flops
from vit_jax.planning.hlo import parse
from vit_jax.planning.plan import KEYS, figures, plan
from vit_jax.planning.roofline import seconds_of
from vit_jax.planning.topology import Topology, topology
from vit_jax.planning.traffic import by_kind, kernels
from vit_jax.training.chips import GPUS
from vit_jax.training.sharding import make_mesh
from vit_jax.training.units import Units

# Attention and an MLP, width 128, 2 heads, 256 in the middle, of 4 x 8 tokens on each of 8 GPUs, bfloat16: the gradient
# of the parameters, as XLA compiled it for h100:8 (metadata and the tuning of calls cut out).
TEXT = Path(__file__).with_name("block.cuda.hlo.txt").read_text()
ROWS, WIDTH, HIDDEN = 32, 128, 256
# What the config of the plans needs; the data is not there and is not looked for.
TINY = {
    "seed": 0,
    "steps": 10,
    "batch_size": 16,
    "task": {"name": "classify"},
    "model": {"name": "vit", "variant": "mu/8", "depth": 2, "width": 64, "num_heads": 1, "dtype": "bfloat16"},
    "data": {"image_size": [16, 16], "train": {"name": "gone"}, "transform": {"name": "supervised", "crop": "none"}},
    "optim": {"name": "adamw", "learning_rate": 1e-3},
}


def kinds(chip=GPUS["h100"]):
    return {entry["kind"]: entry for entry in by_kind(kernels(TEXT), chip.hbm_bandwidth, chip.flops)}


def test_calls_of_libraries_are_counted():
    found = kinds()
    projections = 2 * ROWS * WIDTH * (3 * WIDTH + WIDTH + 2 * HIDDEN)
    # Forward, the gradient of the kernels, and that of what comes in, which the first product does not need.
    assert found["product"]["flops"] == 3 * projections - 2 * ROWS * WIDTH * 3 * WIDTH
    assert found["product"]["count"] == 11
    pairs = 4 * 2 * 8 * 8 * 64
    assert found["attention"]["flops"] == (2 * 2 + 2 * 5) * pairs and found["attention"]["count"] == 2
    tokens = 2 * ROWS * WIDTH
    statistics = 4 * 4 * 2 * 8
    # q, k, v, output; then those, the gradients of all four, and the statistics twice.
    assert found["attention"]["bytes"] == (4 + 8) * tokens + 2 * statistics
    assert found["collective"]["count"] == 1


def test_a_product_is_counted_without_its_workspace():
    [product] = [k for k in kernels(TEXT) if k.name == "cublas-lt-matmul.6"]
    # Input, kernel and bias; what GELU gets, and what it gives.
    assert product.bytes == 2 * (ROWS * WIDTH + WIDTH * HIDDEN + HIDDEN + 2 * ROWS * HIDDEN)


@pytest.mark.parametrize(
    ("mask", "window", "pairs"), [("NO_MASK", 0, 64), ("CAUSAL", 0, 36), ("PADDING_CAUSAL", 3, 21)]
)
def test_masked_attention_computes_less(mask, window, pairs):
    details = {
        "intermediate_tensor_shape": {"dimensions": ["4", "2", "8", "8"]}, "mask_type": mask,
        "sliding_window_length": window,
    }  # fmt: skip
    line = 'custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", backend_config='
    config = json.dumps({"cudnn_fmha_backend_config": details})
    computation = parse(
        "ENTRY %m (q: bf16[4,8,2,64]) -> bf16[4,2,8,64] {\n  %q = bf16[4,8,2,64]{3,2,1,0} parameter(0)\n"
        f"  ROOT %x = (bf16[4,2,8,64]{{3,1,2,0}}, u8[0]{{0}}) {line}{config}\n}}\n"
    ).computations["m"]
    assert library_flops(computation["x"], [computation["q"]] * 3) == 2 * 2 * 4 * 2 * pairs * 64


@pytest.mark.parametrize("target", ["Forward", "BackwardInput", "BackwardFilter"])
def test_convolutions_by_cudnn(target):
    image, kernel, out = "f32[2,16,16,8]{3,2,1,0}", "f32[3,3,8,4]{3,2,1,0}", "f32[2,14,14,4]{3,2,1,0}"
    left, right, result = {
        "Forward": (image, kernel, out), "BackwardInput": (out, kernel, image), "BackwardFilter": (image, out, kernel),
    }[target]  # fmt: skip
    text = (
        f"ENTRY %m (a: f32[], b: f32[]) -> f32[] {{\n  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n"
        f"  ROOT %x = ({result}, u8[64]{{0}}) custom-call(%a, %b), window={{size=3x3}}, dim_labels=b01f_01io->b01f, "
        f'custom_call_target="__cudnn$conv{target}"\n}}\n'
    )
    assert [(k.kind, k.flops) for k in kernels(text)] == [("product", 2 * 2 * 14 * 14 * 4 * 9 * 8)]


def compiled():
    memory = types.SimpleNamespace(
        argument_size_in_bytes=536064, output_size_in_bytes=527968, alias_size_in_bytes=0, temp_size_in_bytes=33623840
    )
    return types.SimpleNamespace(as_text=lambda: TEXT, memory_analysis=lambda: memory, cost_analysis=lambda: None)


def rehearsal():
    config = types.SimpleNamespace(batch_size=32, microbatch=None)
    mesh = make_mesh({}, jax.devices())
    return types.SimpleNamespace(
        config=config, mesh=mesh, training_flops=lambda: 1e6, units=Units, implementations=dict
    )


def test_kernels_of_a_gpu_run_one_after_the_other():
    slow = types.SimpleNamespace(**{**vars(GPUS["h100"]), "flops": 1e12, "hbm_bandwidth": 1e12})
    found = figures(compiled(), rehearsal(), slow)
    assert set(found) == {*KEYS, "resources"} - {"examples_per_second", "tokens_per_second"}
    by = kinds(slow)
    alone = [k for k in kernels(TEXT) if k.kind != "collective"]
    assert found["step_seconds"] == pytest.approx(sum(max(k.bytes, k.flops) / 1e12 for k in alone))
    resources = found["resources"]
    assert resources["compute"] == pytest.approx(sum(k.flops / 1e12 for k in alone if k.flops > k.bytes))
    assert resources["compute"] > 0
    assert resources["compute"] + resources["memory"] == pytest.approx(found["step_seconds"])
    assert found["flops"] == by["product"]["flops"] + by["attention"]["flops"] and found["bytes_accessed"] is None
    assert found["counted_bytes"] == sum(entry["bytes"] for entry in by.values())
    assert found["peak_bytes"] == 536064 + 527968 + 33623840
    assert found["collectives"] == [{"kind": "all-reduce", "axes": ["data"], "count": 1, "bytes": 2 * 131968}]


def on_hosts(data, fsdp):
    """Sixteen GPUs of two hosts."""
    devices = np.array([types.SimpleNamespace(process_index=i // 8) for i in range(16)], object)
    return types.SimpleNamespace(devices=devices.reshape(data, fsdp, 1), axis_names=("data", "fsdp", "tensor"))


@pytest.mark.parametrize(
    ("kind", "axes", "shape", "share", "rate"),
    [
        ("all-reduce", ["data"], (16, 1), 2 * 15 / 16, 8 * 50e9),  # eight lanes between the hosts
        ("all-reduce", ["data"], (2, 8), 2 * 1 / 2, 50e9),  # one GPU of each host
        ("all-gather", ["fsdp"], (2, 8), 7 / 8, 450e9),  # inside a host
        ("all-to-all", ["data"], (16, 1), 15 / 16, 50e9),
    ],
)
def test_between_hosts_the_network_is_slower(kind, axes, shape, share, rate):
    sent = {"kind": kind, "axes": axes, "bytes": 1e9}
    assert seconds_of(sent, on_hosts(*shape), GPUS["h100"]) == pytest.approx(1e9 * share / rate)


def test_what_a_plan_cannot_know_is_said():
    found = figures(compiled(), rehearsal(), GPUS["h100"]) | {"peak_bytes": 70 * 10**9}
    out = _show(found, TINY, Topology("h100:8", jax.devices(), GPUS["h100"], "a compiler"))
    for text in ("11 matrix products", "2 attention kernels", "copies and transposes", "bound by memory (compute"):
        assert text in out
    assert "counted on paper" in out and "autotuning" in out and "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" in out
    assert "as XLA counts" not in out, "there is no such count for GPUs"


@pytest.mark.parametrize(
    ("state", "changes", "texts", "not_texts"),
    [
        (70, {}, ["mesh.fsdp=-1", "remat=full", "microbatch=8"], []),
        (5, {}, ["remat=full", "microbatch=8"], ["fsdp"]),
        (5, {"model": {"remat": "full"}}, ["Take fewer images at a time"], ["remat=full", "fsdp"]),
        (90, {}, ["the state alone is too large", "mesh.fsdp=-1"], ["microbatch"]),
        (90, {"mesh": {"fsdp": 8}}, ["Take more chips"], ["microbatch=", "remat="]),
        (70, {"microbatch": 1, "model": {"remat": "full"}, "mesh": {"fsdp": 8}}, ["Take more chips"], ["microbatch"]),
    ],
)
def test_advice_names_what_would_help(state, changes, texts, not_texts):
    found = {"hbm_bytes": 80 << 30, "arguments_bytes": state << 30, "temporaries_bytes": 40 << 30}
    advice = _advice(found | {"peak_bytes": max(state + 40, 85) << 30}, {**TINY, **changes})
    assert "GiB a chip are missing" in advice
    assert all(text in advice for text in texts) and not any(text in advice for text in not_texts)


def planned(capsys, name, *argv):
    status = main(["plan", "--no-cache", "--config", "digits", "--topology", name, *argv])
    return status, capsys.readouterr()


def test_an_unknown_card(capsys):
    status, out = planned(capsys, "h10:8")
    assert status == 2 and "There is no topology 'h10:8'. Did you mean 'h100'" in out.err


def test_a_count_that_makes_no_hosts(capsys):
    status, out = planned(capsys, "h100:12")
    assert status == 2 and "12 GPUs make no hosts of 8. Ask for 1, 2, 4 or a multiple of 8 up to 1024" in out.err


def test_without_the_plugin_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(cuda, "toolkit", lambda: Path("/cuda"))
    with pytest.raises(UserError, match=r"CUDA plugin, which is not installed. pip install 'vit_jax\[plan-gpu\]'"):
        topology("h100:8")


def test_the_assembler_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "_USUAL", tmp_path / "usual")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    empty = {"PATH": str(tmp_path)}
    with pytest.raises(UserError, match="ptxas, which was not found. The package nvidia-cuda-nvcc brings it"):
        cuda.toolkit(empty)
    for folder in ("home", "usual", "wheels/cu13"):
        (tmp_path / folder / "bin").mkdir(parents=True)
        (tmp_path / folder / "bin" / "ptxas").touch(mode=0o755)
    assert cuda.toolkit(empty) == tmp_path / "usual"
    assert cuda.toolkit({"PATH": str(tmp_path / "home" / "bin")}) == tmp_path / "home"
    assert cuda.toolkit(empty | {"CUDA_HOME": str(tmp_path / "home")}) == tmp_path / "home"
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "wheels")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert cuda.toolkit(empty) == tmp_path / "wheels" / "cu13"


def test_what_xla_flags_name_is_left_to_them(monkeypatch):
    monkeypatch.setattr(cuda, "toolkit", lambda: Path("/cuda"))
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true --xla_dump_to=/nowhere")
    assert cuda.compiler_options() == {"xla_gpu_autotune_level": 0, "xla_gpu_cuda_data_dir": "/cuda"}


@pytest.mark.long
def test_a_plan_for_gpus():
    """Compiles for eight H100s; depth 2."""
    try:
        target = topology("h100:8")
    except UserError as error:
        pytest.skip(f"not compiled for GPUs: {error}")
    found = plan(TINY, 10, target)
    assert found["fits"] and found["hbm_bytes"] == 80 * 10**9 and found["bytes_accessed"] is None
    assert [(c["kind"], c["axes"]) for c in found["collectives"]] == [("all-reduce", ["data"])]
    by = {entry["kind"]: entry for entry in found["kernels"]}
    assert by["attention"]["count"] == 2 * 2
    # Two images a GPU, of 4 patches and a class token, and XLA pads rows to a multiple of 8.
    rows = math.ceil(2 * 5 / 8) * 8
    forward = 2 * rows * (4 * 64 * 64 + 2 * 64 * 128)
    assert 2 * 3 * forward <= by["product"]["flops"] < 1.3 * 2 * 3 * forward
