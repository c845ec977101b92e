"""Frozen parameters are on disk once, in a folder that all steps of a run name."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import vit_jax
from tests.tiny import tiny_run
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.policy import Policy
from vit_jax.checkpoints.source import open_source
from vit_jax.checkpoints.steps import find, steps_in
from vit_jax.checkpoints.store import Store, read_params, restore
from vit_jax.training.sharding import make_mesh

RUN = {"optim__frozen": "['encoder/.*']", "ema_decay": 0.9, "checkpoint__every": 2, "checkpoint__keep": 3}
METADATA = {
    "config": {},
    "task": None,
    "model": None,
    "fields": None,
    "preprocess": None,
    "labels": [],
    "image_size": None,
    "product": "params",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("frozen")
    tiny_run(workdir, **RUN)
    return workdir


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def folder_of(workdir):
    (folder,) = (workdir / "checkpoints").glob("frozen-*")
    return folder


def size_of(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_step_has_the_bytes_of_what_is_trained(tmp_path):
    rng = np.random.default_rng(0)
    encoder, head = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in (990_000, 10_000))
    state = {"params": {"encoder": {"w": encoder}, "head": {"w": head}}, "opt_state": {"mu": {"head": {"w": head}}}}
    store = Store(tmp_path, Policy(keep=3), {"encoder": {"w": True}, "head": {"w": False}})
    for step in (1, 2, 3):
        store.save(step, state, METADATA)
    store.wait()
    assert size_of(folder_of(tmp_path)) > 0.9 * encoder.nbytes
    for step in (1, 2, 3):
        trained = 2 * head.nbytes
        assert 0.9 * trained < size_of(tmp_path / "checkpoints" / str(step)) < trained + 20_000 < 0.03 * encoder.nbytes
        equal(read_params(tmp_path / "checkpoints" / str(step))[0], state["params"])
    # Another mesh gets them where it wants them.
    rows = NamedSharding(make_mesh({"fsdp": 2}, jax.devices()[:2]), PartitionSpec("fsdp"))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), state)
    restored, metadata = restore(find(tmp_path), abstract)
    equal(restored, state)
    assert restored["params"]["encoder"]["w"].sharding == rows and metadata["frozen_in"] == folder_of(tmp_path).name
    with pytest.raises(UserError, match=r"params/encoder/w is \(990000,\) there and absent here"):
        restore(find(tmp_path), {**abstract, "params": {"head": abstract["params"]["head"]}})
    # Whoever removes it during the run has it again with the next step.
    shutil.rmtree(folder_of(tmp_path))
    store.save(4, state, METADATA)
    store.close()
    equal(read_params(find(tmp_path))[0], state["params"])


@pytest.mark.long
def test_a_run_goes_on_with_the_same_folder(whole, run):
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / str(step))
    written = os.stat(folder_of(run) / "_CHECKPOINT_METADATA").st_mtime_ns
    tiny_run(run, **RUN)
    assert os.stat(folder_of(run) / "_CHECKPOINT_METADATA").st_mtime_ns == written and steps_in(run) == [2, 4, 6]
    for product in ("params", "ema"):
        one, other = (read_params(find(workdir), product)[0] for workdir in (whole, run))
        equal(one, other)
        assert set(one) == {"encoder", "head"}


@pytest.mark.long
def test_a_step_that_was_copied_away(run, tmp_path):
    step, folder, away = find(run), folder_of(run), tmp_path / "away"
    shutil.copytree(step, away / step.name)
    with pytest.raises(UserError, match=f"lacks its frozen parameters.*Copy {folder.name} there from the checkpoints"):
        vit_jax.load(away / step.name)
    shutil.copytree(folder, away / folder.name)
    equal(vit_jax.load(away / step.name).params, vit_jax.load(run).params)
    with pytest.raises(UserError, match="holds the frozen parameters of a run alone"):
        vit_jax.load(away / folder.name)


@pytest.mark.long
def test_an_exported_checkpoint_is_whole(whole, tmp_path):
    export(open_source(whole), tmp_path / "exported", "orbax")
    assert not list((tmp_path / "exported" / "checkpoints").glob("frozen-*"))
    equal(vit_jax.load(tmp_path / "exported").params, vit_jax.load(whole).params)


def altered(folder):
    spoil(max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size))


def incomplete(folder):
    (folder / "state" / "_METADATA").unlink()


def of_other_values(folder):
    """What another run froze, under this one's name."""
    params = jax.tree.map(lambda x: x + 1, read_params(find(folder.parent.parent))[0])
    frozen = {"encoder": jax.tree.map(lambda _: True, params["encoder"]),
              "head": jax.tree.map(lambda _: False, params["head"])}  # fmt: skip
    store = Store(folder.parent / "other", Policy(), frozen)
    store.save(1, {"params": params}, METADATA)
    store.close()
    shutil.rmtree(folder)
    folder_of(folder.parent / "other").rename(folder)
    shutil.rmtree(folder.parent / "other")


@pytest.mark.parametrize("damage", [altered, incomplete, of_other_values])
def test_damage_is_one_sentence_and_no_step_is_set_aside(run, damage):
    damage(folder_of(run))
    with pytest.raises(UserError, match="The frozen parameters in .* are damaged, and all steps of the run need them"):
        vit_jax.load(run)
    shutil.rmtree(run / "checkpoints" / "6")
    with pytest.raises(UserError, match="The frozen parameters in .* are damaged"):
        tiny_run(run, **RUN)
    assert steps_in(run) == [2, 4]


@pytest.mark.parametrize("name", ["frozen-trunk", "frozen-0badcafe"])
def test_a_workdir_may_begin_its_name_like_the_folder(name, tmp_path):
    step = tmp_path / name / "checkpoints" / "3"
    step.mkdir(parents=True)
    assert find(tmp_path / name) == find(step) == step
