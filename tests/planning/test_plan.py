"""Plans of tiny models: their figures against what is known, extension in depth, the cache, the sweep, the sentences."""

import json
import types

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.commands.plan import _show
from vit_jax.naming import build_model
from vit_jax.planning import plan as module
from vit_jax.planning.plan import KEYS, estimate, plan
from vit_jax.planning.rehearsal import Rehearsal, rehearse_task
from vit_jax.planning.roofline import finished
from vit_jax.planning.topology import Topology, topology
from vit_jax.training.chips import TPUS
from vit_jax.training.sharding import make_mesh
from vit_jax.training.units import Units

OF_IMAGES = tuple(key for key in KEYS if key not in ("examples_per_second", "tokens_per_second"))
# What `plan` needs of a config; the data is not there and is not looked for.
TINY = {
    "seed": 0,
    "steps": 10,
    "batch_size": 16,
    "task": {"name": "classify"},
    "model": {"name": "vit", "variant": "mu/8", "depth": 3, "pooling": "mean"},
    "data": {"image_size": [16, 16], "train": {"name": "gone"}, "transform": {"name": "supervised", "crop": "none"}},
    "optim": {"name": "adamw", "learning_rate": 1e-3},
}


def with_model(**changes):
    return {**TINY, "model": {**TINY["model"], **changes}}


@pytest.fixture(scope="module")
def cpu():
    """Eight devices of this machine with the rates of a v5e, so that figures do not depend on how busy it is."""
    return Topology("cpu:8", jax.devices()[:8], TPUS["v5e"], "a compiler")


@pytest.mark.long
def test_a_plan_is_per_chip_and_whole(cpu):
    found = plan(TINY, 10, cpu)
    assert set(OF_IMAGES) | {"resources"} == set(found)
    parameters = 3 * 12_704 + 192 * 32 + 32 + 4 * 32 + 64 + 330
    assert found["arguments_bytes"] == pytest.approx(3 * 4 * parameters, rel=0.05), "params and two moments on each"
    assert found["peak_bytes"] >= found["arguments_bytes"] and found["fits"]
    assert [c["kind"] for c in found["collectives"]] == ["all-reduce"]
    assert found["collectives"][0]["bytes"] == pytest.approx(4 * parameters, rel=0.05)
    resources = found["resources"]
    assert resources["memory"] == found["bytes_accessed"] / 819e9 and resources["compute"] == found["flops"] / 197e12
    assert found["step_seconds"] == max(resources.values())
    assert found["images_per_second"] == 16 / found["step_seconds"]
    assert 0 < found["mfu"] < 1


@pytest.mark.slow
def test_a_scanned_model_costs_what_the_unscanned_one_does(cpu, tmp_path):
    """XLA counts the scanned block once; the extension from depths 2 and 4 counts all of them."""
    unscanned, scanned = plan(TINY, 10, cpu), plan(with_model(scan=True), 10, cpu, tmp_path)
    for key in ("flops", "bytes_accessed"):
        assert scanned[key] == pytest.approx(unscanned[key], rel=0.05), key
    assert scanned["collectives"][0]["bytes"] == pytest.approx(unscanned["collectives"][0]["bytes"], rel=0.05)
    rough = estimate(with_model(scan=True), 10, cpu, tmp_path)
    assert rough["flops"] == scanned["flops"]
    assert rough["arguments_bytes"] == pytest.approx(unscanned["arguments_bytes"], rel=0.01)


@pytest.mark.slow
def test_accumulation_counts_every_microbatch(cpu):
    whole, parts = plan(TINY, 10, cpu), plan({**TINY, "microbatch": 8}, 10, cpu)
    assert parts["flops"] == pytest.approx(whole["flops"], rel=0.3)
    assert parts["flops"] > 0.8 * whole["flops"], "one of two microbatches would be half"


@pytest.mark.long
def test_results_are_kept_by_program_and_versions(cpu, tmp_path, monkeypatch):
    first = plan(TINY, 10, cpu, tmp_path)
    monkeypatch.setattr(module, "_read", lambda *_: pytest.fail("compiled again"))
    assert plan({**TINY, "steps": 20}, 10, cpu, tmp_path) == first, "the length of the run changes no program"
    with pytest.raises(pytest.fail.Exception):
        plan({**TINY, "batch_size": 32}, 10, cpu, tmp_path)
    with pytest.raises(pytest.fail.Exception):
        plan(TINY, 10, Topology("cpu:8", cpu.devices, cpu.chip, "another compiler"), tmp_path)


@pytest.mark.long
def test_what_the_compiler_says_of_a_program_that_is_too_large(cpu, monkeypatch):
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.25G of 15.75G hbm. Exceeded by 4.50G."

    def refuse(self, compiler_options):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    found = plan(TINY, 10, cpu)
    assert not found["fits"] and found["peak_bytes"] == round(20.25 * 2**30) and found["step_seconds"] is None
    message = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        plan(TINY, 10, cpu)


def run(capsys, *argv):
    status = main(["plan", "--no-cache", "--classes", "10", *argv])
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(f"def get_config(arg=''):\n    return {TINY!r}\n")
    return str(path)


@pytest.mark.long
def test_the_command_prints_a_table_and_json(capsys, config):
    status, out, _ = run(capsys, "--config", config, "--topology", "cpu:8")
    assert status == 0
    for text in ("mu/8, batch 16, on 8 cpu chips", "all-reduce over data", "bound by", "MFU", "It fits."):
        assert text in out
    _, out, _ = run(capsys, "--config", config, "--topology", "cpu:8", "--json", "--config.model.depth=1")
    assert tuple(json.loads(out)) == OF_IMAGES


@pytest.mark.slow
def test_the_sweep_recommends_what_fits(capsys, config):
    changes = ["--config.model.depth=2", "--config.batch_size=8"]
    status, out, _ = run(capsys, "--config", config, "--topology", "cpu:2", "--sweep", *changes)
    assert status == 0
    assert "Recommended: --config.model.remat=" in out and "batch_size=32" in out and "mesh.fsdp=2" in out


@pytest.mark.long
def test_what_does_not_fit_says_by_how_much_and_what_to_change(capsys, config, monkeypatch):
    monkeypatch.setattr(module, "_read", lambda lowered, rehearsal, target: {
        "arguments_bytes": 2**30, "temporaries_bytes": 2**50, "peak_bytes": 2**50, "bytes_accessed": 1, "flops": 1,
        "counted_bytes": 1, "kernels": [], "collectives": [], "compile_seconds": 1.0, "oom": False,
    })  # fmt: skip
    status, out, _ = run(capsys, "--config", config, "--topology", "cpu:8")
    assert status == 0
    assert "It does not fit." in out and "GiB a chip are missing: of 1,048,576.00 GiB of temporaries" in out
    assert "ompute activations again with --config.model.remat=full; or take fewer images at a time" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--topology", "v7:4x4"], "There is no topology 'v7:4x4'"),
        (["--topology", "cpu:99"], "jax was started with 8 CPU devices, not 99"),
        (["--topology", "cpu:8", "--config.mesh.fsdp=3"], "does not multiply out to 8 devices"),
        (["--topology", "cpu:8", "--config.batch_size=12"], "does not divide over 8 devices"),
        (["--topology", "cpu:8", "--classes", "0"], "--classes is 0"),
    ],
)
def test_mistakes(capsys, config, argv, message):
    status, _, err = run(capsys, "--config", config, *argv)
    assert status == 2 and message in err


def test_without_libtpu_there_is_a_sentence(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu, which is not installed. pip install 'vit_jax\[plan\]'"):
        topology("v5e:2x2")


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_tpu_topologies(name):
    pytest.importorskip("libtpu", reason="libtpu is not installed (the extra 'plan')")
    target = topology(name)
    assert len(target.devices) == 4 and target.devices[0].platform == "tpu"
    assert target.chip.name == name.split(":")[0] and target.devices[0].device_kind.startswith(target.chip.kinds)


def test_a_plan_for_a_tpu():
    """In bfloat16 on one chip of each of two hosts' worth; the head is wide enough to be cut into fsdp."""
    pytest.importorskip("libtpu", reason="libtpu is not installed (the extra 'plan')")
    found = plan(with_model(depth=1, dtype="bfloat16"), 10, topology("v5e:2x2"))
    assert found["fits"] and found["hbm_bytes"] == int(15.75 * 2**30)
    assert {c["kind"] for c in found["collectives"]} == {"all-reduce"}
    with pytest.raises(UserError, match="libtpu knows no topology 'v5e:3x3'"):
        topology("v5e:3x3")


def test_what_convolutions_are_run_as_is_said_for_the_planned_device():
    task = types.SimpleNamespace(model=build_model({"name": "efficientvit", "variant": "B0"}, num_classes=3)[0])
    for platform, which in (("cpu", "products"), ("tpu", "convolution")):
        mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))
        found = Rehearsal.implementations(types.SimpleNamespace(task=task, mesh=mesh))
        assert found == {"convolutions": which}


def test_a_model_that_does_not_count_itself_has_no_utilisation(cpu):
    """The compiler's count is no substitute: it has what is computed twice, and a scanned block once."""
    found = dict.fromkeys(KEYS, 0) | {
        "oom": False,
        "flops": 1e9,
        "bytes_accessed": 1e9,
        "collectives": [],
        "kernels": [],
    }
    config = types.SimpleNamespace(batch_size=16, microbatch=None)
    for flops, known in ((None, False), (1e6, True)):
        rehearsal = types.SimpleNamespace(
            config=config,
            training_flops=lambda flops=flops: flops,
            mesh=make_mesh({}, cpu.devices),
            units=Units,
            implementations=dict,
        )
        done = finished(found, KEYS, rehearsal, cpu.chip)
        assert (done["mfu"] is not None) == known and done["images_per_second"] > 0
        assert ("does not count" not in _show(done, TINY, cpu)) == known


def test_classes_that_a_config_names_are_among_those_that_are_made_up():
    """The data, which is not opened, has them."""
    task = {"name": "classify", "class_weights": {"rare": 5.0, "common": 0.5}}
    task, variables = rehearse_task({**TINY, "task": task}, 4)
    assert task.class_weights == (5.0, 0.5, 1.0, 1.0) and variables["params"]["head"]["bias"].shape == (4,)
