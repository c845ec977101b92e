"""Runs that learn adapters alone: what is trained, what is saved of it, and how it is whole again."""

import json
import shutil

import jax
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config, tiny_experiment, tiny_run, untrained
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.source import flat_shapes, open_source
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_metadata, read_params
from vit_jax.checkpoints.transfer import flat_arrays
from vit_jax.nn.lora import merged
from vit_jax.planning.rehearsal import rehearse
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.parameters import leaf_names
from vit_jax.training.program import build_program
from vit_jax.training.sharding import make_mesh

RUN = {
    "steps": 4,
    "lora__rank": 2,
    "lora__alpha": 4.0,
    "ema_decay": 0.5,
    "checkpoint__every": 2,
    "checkpoint__frozen": "base",
    "model__depth": 1,
    "data__image_size": "[12, 12]",  # other positions than the base's
}
ADAPTED = {f"lora/encoder/block_00/attention/{name}/kernel/{part}" for name in ("query", "value") for part in "ab"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base and a run beside it."""
    folder = tmp_path_factory.mktemp("adapted")
    untrained(folder / "base", tiny_config(model__depth=1), signed=True)
    tiny_run(folder / "run", init_from=str(folder / "base"), **RUN)
    return folder


@pytest.mark.long
def test_a_step_holds_what_was_trained(folder):
    saved, _ = read_params(find(folder / "run"))
    frozen = {"encoder/pos_embedding"}  # interpolated, so that the base does not have them
    assert set(flat_shapes(saved)) == {*ADAPTED, "head/kernel", "head/bias", *frozen}
    metadata = read_metadata(find(folder / "run"))
    [base] = metadata["bases"]
    assert metadata["format"] == 3 and metadata["lora"] == {"rank": 2, "alpha": 4.0}
    assert base["path"] == str(find(folder / "base")) and base["relative"] == "../base/checkpoints/1"
    own = flat_shapes(vit_jax.load(folder / "base").params)
    assert set(base["names"]) == {name for name in own if name.startswith("encoder/")} - frozen


@pytest.mark.long
def test_what_is_loaded_is_the_base_with_what_was_learned(folder):
    base, run = (flat_arrays(vit_jax.load(folder / name).params) for name in ("base", "run"))
    assert set(run) == set(base)
    kernels = {name.removeprefix("lora/")[:-2] for name in ADAPTED}
    learned = flat_arrays(read_params(find(folder / "run"), "ema")[0])
    for name, value in run.items():
        if name in kernels:
            a, b = (np.asarray(learned[f"lora/{name}/{part}"], np.float64) for part in "ab")
            expected = np.asarray(base[name], np.float64) + 2 * np.tensordot(a, b, 1)
            np.testing.assert_allclose(value, expected, atol=1e-6)
            assert abs(value - base[name]).max() > 1e-5
        elif name.startswith("encoder/") and name != "encoder/pos_embedding":
            np.testing.assert_array_equal(value, base[name])
    exported = folder / "exported"
    export(open_source(folder / "run"), exported, "orbax")
    jax.tree.map(np.testing.assert_array_equal, flat_arrays(vit_jax.load(exported).params), run)
    assert read_metadata(find(exported))["format"] == 2


def test_a_base_that_moved_or_is_another(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "there" / "run")
    shutil.copytree(folder / "base", tmp_path / "there" / "base")
    run, whole = tmp_path / "there" / "run", flat_arrays(vit_jax.load(folder / "run").params)
    folder.rename(away := folder.with_name("away"))
    try:
        jax.tree.map(np.testing.assert_array_equal, flat_arrays(vit_jax.load(run).params), whole)
        (run.parent / "base").rename(tmp_path / "base")
        with pytest.raises(UserError, match=r"beside a base that is no longer at .*base/checkpoints/1.*\(--base\)"):
            vit_jax.load(run)
        found = vit_jax.load(run, base=tmp_path / "base").params
        jax.tree.map(np.testing.assert_array_equal, flat_arrays(found), whole)
        other = tiny_config(model__depth=1, model__activation="gelu_exact")
        untrained(tmp_path / "other", other, signed=False)
        with pytest.raises(UserError, match=r"on a base with the digest [0-9a-f]{8}, and .*other has [0-9a-f]{8}"):
            vit_jax.load(run, base=tmp_path / "other")
        config = json.loads((run / "config.json").read_text())
        with pytest.raises(UserError, match="or put it or a link to it there, where train looks; its digest is"):
            train(build_experiment(config), run)  # train has no --base
        (run.parent / "base").symlink_to(tmp_path / "base")
        jax.tree.map(np.testing.assert_array_equal, flat_arrays(vit_jax.load(run).params), whole)
        with pytest.raises(UserError, match="has all of its parameters"):
            vit_jax.load(tmp_path / "base", base=tmp_path / "other")
    finally:
        away.rename(folder)


def program_of(**overrides):
    experiment = tiny_experiment(model__depth=1, **overrides)
    row = experiment.pipeline.batch(0, 16, 0)
    raw = {key: jax.ShapeDtypeStruct((16, *value.shape[1:]), value.dtype) for key, value in row.items()}
    mesh = make_mesh({}, jax.devices()[:1])
    return experiment.task, build_program(experiment.config, experiment.task, experiment.on_device, raw, mesh)


def test_the_base_has_no_slot_and_an_untrained_adapter_changes_nothing(folder):
    task, program = program_of(lora__rank=2, init_from=str(folder / "base"), ema_decay=0.5)
    trained = {*ADAPTED, "head/kernel", "head/bias"}
    assert set(leaf_names(program.state["ema"])) == trained
    slots = {name for name in leaf_names(program.state["opt_state"]) if name.endswith(("kernel/a", "bias", "scale"))}
    assert slots and all(any(name.endswith(t) for t in trained) and "encoder/norm" not in name for name in slots)
    variables = jax.jit(task.init)(jax.random.key(0), {"image": np.zeros((1, 8, 8, 3), np.float32)})
    plain = merged(variables["params"], 1.0)
    jax.tree.map(np.testing.assert_array_equal, plain, {k: v for k, v in variables["params"].items() if k != "lora"})
    assert task.layers()[1] == ("encoder/block_00", "lora/encoder/block_00")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"lora__rank": 65},
            r"config\.lora\.rank is 65, and 'encoder/block_00/attention/query/kernel' has a rank of 32",
        ),
        ({"lora__rank": 2, "lora__match": "encoder/.*/bias"}, "matches 'encoder/block_00/.*bias', which is no kernel"),
        ({"lora__rank": 2, "lora__match": "unet/.*"}, r"'unet/\.\*' in config.lora.match matches no parameter"),
        ({"lora__rank": 2, "init_from": "none"}, "config.lora locks 'encoder', and no weights are given for it"),
        ({"lora__rank": 0}, r"config\.lora\.rank is 0"),
    ],
)
def test_what_cannot_be_adapted(folder, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        program_of(**{"init_from": str(folder / "base"), **overrides})


def test_a_base_is_asked_for_where_there_is_none(tmp_path):
    with pytest.raises(UserError, match="no frozen parameter comes from config.init_from"):
        tiny_run(tmp_path / "run", checkpoint__frozen="base", model__depth=1)


@pytest.mark.long
def test_a_run_goes_on_to_the_same_bits(folder, tmp_path):
    shutil.copytree(folder / "run", again := tmp_path / "run")
    shutil.rmtree(again / "checkpoints" / "4")
    (again / "summary.json").unlink()
    summary = tiny_run(again, init_from=str(folder / "base"), **RUN)
    expected = json.loads((folder / "run" / "summary.json").read_text())
    assert {k: v for k, v in summary.items() if k != "seconds"} == {k: v for k, v in expected.items() if k != "seconds"}
    for product in ("params", "ema"):
        ours, theirs = (read_params(find(path), product)[0] for path in (again, folder / "run"))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert read_metadata(find(again))["bases"] == read_metadata(find(folder / "run"))["bases"]


def test_a_plan_has_the_adapters():
    """It was that of a run in which all parameters learn."""
    given = {"lora__rank": 1, "init_from": "somewhere"}
    whole, adapted = (rehearse(tiny_config(model__depth=1, **more), 10, jax.devices()[:1]) for more in ({}, given))
    assert set(leaf_names(adapted.program.state["params"])) > set(leaf_names(whole.program.state["params"]))
    slots = [sum(leaf.size for leaf in jax.tree.leaves(x.program.state["opt_state"])) for x in (whole, adapted)]
    assert 0 < slots[1] < 0.2 * slots[0] and adapted.training_flops() < whole.training_flops()


@pytest.mark.long
def test_what_is_counted_of_a_step_is_what_xla_counts(folder):
    """Of all parameters, with adapters alone, and with a frozen trunk: within a tenth of XLA's own count."""
    sizes = {"model__width": 128, "model__mlp_dim": 512, "data__image_size": "[32, 32]", "model__num_heads": 2}
    ways = {
        "whole": {},
        "adapted": {"lora__rank": 1, "init_from": str(folder / "base")},
        "head": {"optim__frozen": "['encoder/.*']", "init_from": str(folder / "base")},
    }
    spared = {}
    for name, given in ways.items():
        task, program = program_of(**sizes, **given)
        spared[name] = task.flops(program.batch) - program.flops()
        assert 16 * program.flops() == pytest.approx(program.lower().cost_analysis()["flops"], rel=0.1), name
    assert 0 == spared["whole"] < spared["adapted"] < spared["head"]


@pytest.mark.long
def test_the_base_costs_no_gradient(folder):
    """Of the matrices of a block a step with adapters computes the gradient of two in eight; the others' go."""
    costs = {}
    for name, given in {"whole": {}, "adapted": {"lora__rank": 1, "init_from": str(folder / "base")}}.items():
        _, program = program_of(**given)
        costs[name] = program.lower().compile().cost_analysis()["flops"]
    assert costs["adapted"] < 0.85 * costs["whole"]


@pytest.mark.long
def test_a_run_knows_the_commit_of_what_it_loaded_from_the_hub(folder, tmp_path, monkeypatch):
    """Its base has it too, and a run that goes on."""
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra 'hub') is not installed")
    commit = "0123456789" * 4
    export(open_source(folder / "base"), tmp_path / "snapshots" / commit, "timm")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path / "snapshots" / commit))
    given = RUN | {"data__image_size": "[8, 8]", "init_from": "hf://me/vit", "ema_decay": "none"}
    for stop in (2, 4):
        tiny_run(tmp_path / "run", stop_at=stop, **given)
        metadata = read_metadata(find(tmp_path / "run"))
        assert metadata["step"] == stop and metadata["loaded_from"] == [f"hf://me/vit@{commit}"]
        assert [base["path"] for base in metadata["bases"]] == [f"hf://me/vit@{commit}"]
