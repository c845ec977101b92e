"""What `vit_jax.load` gives back is what training's evaluation used."""

import json
import random
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import vit_jax
from tests.tiny import tiny_experiment, tiny_run
from vit_jax import UserError
from vit_jax.checkpoints import store
from vit_jax.checkpoints.steps import find, steps_in
from vit_jax.models import vit


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_run(folder, checkpoint__every=2, checkpoint__keep=2)
    return folder


@pytest.mark.long
def test_everything_travels_with_the_path(workdir):
    loaded = vit_jax.load(workdir)
    assert loaded.labels == tuple(str(d) for d in range(10))
    assert loaded.preprocess.image_size == (8, 8)
    assert loaded.path.name == "6"
    assert {x.dtype for x in jax.tree.leaves(loaded.params)} == {np.dtype("float32")}
    assert vit_jax.load(workdir / "checkpoints" / "4").metadata["step"] == 4


def test_preprocessing_is_that_of_evaluation_bit_for_bit(workdir):
    experiment, loaded = tiny_experiment(), vit_jax.load(workdir)
    pipeline = experiment.evaluators["val"].pipeline
    batch = next(iter(pipeline.iterate()))
    fed = jax.jit(experiment.on_device_eval)({k: jax.numpy.asarray(v) for k, v in batch.items()})["image"]
    for row, index in zip(np.asarray(fed), batch["index"], strict=True):
        np.testing.assert_array_equal(loaded.preprocess(pipeline.source[index]["image"]), row)


def test_accuracy_of_the_loaded_model_is_the_one_that_was_logged(workdir):
    loaded, source = vit_jax.load(workdir), tiny_experiment().evaluators["val"].pipeline.source
    images = np.stack([loaded.preprocess(source[i]["image"]) for i in range(len(source))])
    labels = np.array([source[i]["label"] for i in range(len(source))])
    accuracy = (np.asarray(loaded.logits(images)).argmax(1) == labels).mean()
    assert accuracy == pytest.approx(json.loads((workdir / "summary.json").read_text())["val/accuracy"])
    assert loaded.features(images).shape == (len(source), 32)


def test_images_that_were_not_preprocessed(workdir):
    loaded = vit_jax.load(workdir)
    for images in (np.zeros((8, 8, 3), np.float32), np.zeros((1, 8, 8, 3), np.uint8)):
        with pytest.raises(UserError, match="Stack preprocessed images"):
            loaded.logits(images)
    with pytest.raises(UserError, match="grid of 4x4 patches"):
        loaded.logits(np.zeros((1, 16, 16, 3), np.float32))


def test_a_model_from_outside(workdir):
    calls = []

    def my_model(**kwargs):
        calls.append(kwargs)
        return vit.build(**kwargs)

    vit_jax.load(workdir, model=my_model)
    assert calls == [{"variant": "mu/4", "pooling": "mean", "num_classes": 10}]


@pytest.mark.long
def test_the_moving_average_is_the_product(tmp_path):
    tiny_run(tmp_path, ema_decay=0.5)
    path = find(tmp_path)
    ema, _ = store.read_params(path, "ema")
    params, _ = store.read_params(path, "params")
    assert vit_jax.load(tmp_path).metadata["product"] == "ema"
    jax.tree.map(np.testing.assert_array_equal, vit_jax.load(tmp_path).params, ema)
    assert not np.array_equal(ema["head"]["kernel"], params["head"]["kernel"])


@pytest.mark.parametrize(
    "lost",
    ["_CHECKPOINT_METADATA", "state/_METADATA",
     *(pytest.param(name, marks=pytest.mark.long) for name in ("state", "state/ocdbt.process_0"))],
)  # fmt: skip
def test_a_half_written_checkpoint(workdir, tmp_path, lost, capfd):
    shutil.copytree(workdir, tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "6"
    shutil.rmtree(step / lost) if (step / lost).is_dir() else (step / lost).unlink()
    with pytest.raises(UserError, match=r"6 is .*damaged.* Step 4 is there too: .*checkpoints/4|6 is incomplete or"):
        vit_jax.load(tmp_path / "run")
    assert tiny_run(tmp_path / "run", checkpoint__every=2)["step"] == 6
    errors = capfd.readouterr().err
    assert "Traceback" not in errors and "6.damaged, and the run goes on from step 4" in errors
    assert steps_in(tmp_path / "run") == [4, 6]
    ours, theirs = (vit_jax.load(w).params for w in (tmp_path / "run", workdir))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_truncated_data(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "6" / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="incomplete or damaged"):
        vit_jax.load(tmp_path / "run")


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "file.npz").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    (tmp_path / "started" / "checkpoints").mkdir(parents=True)
    for path, message in [
        ("nowhere", "There is no checkpoint at"),
        ("file.npz", "is not an .npz archive, or cut short"),
        ("empty", "is not a checkpoint"),
        ("started", "has not saved a checkpoint yet"),
    ]:
        with pytest.raises(UserError, match=message):
            vit_jax.load(tmp_path / path)


def test_a_newer_format_and_a_foreign_directory(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "FORMAT", 1)
    with pytest.raises(UserError, match="format 2; this version reads up to 1. Update vit_jax"):
        vit_jax.load(workdir)
    from orbax.checkpoint import v1 as ocp

    ocp.save(tmp_path / "7", {"a": np.ones(2)})
    with pytest.raises(UserError, match="7 is incomplete or"):
        vit_jax.load(tmp_path / "7")


@pytest.mark.parametrize("wrapper", ["module.", "module._orig_mod.", "model.module."])
def test_wrappers_before_all_names_are_stripped(tmp_path, wrapper):
    from safetensors.numpy import save_file

    from tests.checkpoints.test_vit_families import written
    from vit_jax.checkpoints.families import timm_vit

    _, _, tensors, _ = written(timm_vit, "ViT")
    save_file({wrapper + name: x for name, x in tensors.items()}, tmp_path / "a.safetensors")
    save_file(tensors, tmp_path / "b.safetensors")
    a, b = (vit_jax.load(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert jax.tree.all(jax.tree.map(np.array_equal, a.params, b.params))
    # A wrapper around a part is none.
    save_file(tensors | {wrapper + "x": np.zeros(1, np.float32)}, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match=wrapper.split(".")[0]):
        vit_jax.load(tmp_path / "c.safetensors")


def test_a_refusal_names_the_architecture_and_two_families_are_one_too_many(tmp_path):
    from safetensors.numpy import save_file

    from tests.checkpoints.test_vit_families import written
    from vit_jax.checkpoints.families import hf_vit, timm_vit

    ours, theirs = (written(family, "ViT")[2] for family in (timm_vit, hf_vit))
    save_file(ours | theirs, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="several families: .*transformers.* and .*timm"):
        vit_jax.load(tmp_path)
    save_file(ours, tmp_path / "model.safetensors", None)
    (tmp_path / "config.json").write_text('{"architecture": "eva02_tiny_patch14_224"}')
    with pytest.raises(UserError, match="eva02_tiny_patch14_224"):
        vit_jax.load(tmp_path)


def test_other_channels(workdir):
    loaded, grey = vit_jax.load(workdir), vit_jax.load(workdir, in_channels=1)
    x = np.random.default_rng(0).normal(size=(2, *loaded.preprocess.image_size, 1)).astype(np.float32)
    np.testing.assert_allclose(grey.logits(x), loaded.logits(x.repeat(3, axis=-1)), atol=1e-5)
    six = vit_jax.load(workdir, in_channels=6)
    assert six.params["encoder"]["embedding"]["kernel"].shape[2] == 6
    np.testing.assert_allclose(six.logits(x.repeat(6, axis=-1)), grey.logits(x), atol=1e-5)
    with pytest.raises(UserError, match="in_channels=0"):
        vit_jax.load(workdir, in_channels=0)


@pytest.mark.long
def test_every_flipped_bit_is_noticed_or_changes_nothing(workdir, tmp_path):
    """In every file of a checkpoint; what is loaded is what was saved, or nothing is."""
    right, drawn = store.read_params(find(workdir))[0], random.Random(5)
    copy = tmp_path / "6"
    shutil.copytree(find(workdir), copy)
    noticed = 0
    for file in sorted(p for p in copy.rglob("*") if p.is_file() and p.stat().st_size):
        whole = file.read_bytes()
        for _ in range(3 if "/d/" in str(file) or file.name == "_CHECKPOINT_METADATA" else 1):
            broken = bytearray(whole)
            broken[drawn.randrange(len(whole))] ^= 1 << drawn.randrange(8)
            file.write_bytes(broken)
            try:
                loaded = vit_jax.load(copy)
            except UserError:
                noticed += 1
            else:
                jax.tree.map(np.testing.assert_array_equal, loaded.params, right)
                assert loaded.labels == tuple(str(d) for d in range(10))
        file.write_bytes(whole)
    assert noticed > 5
    vit_jax.load(copy)


def test_a_flipped_byte_of_an_array_is_named_and_may_be_overlooked(workdir, tmp_path, monkeypatch):
    shutil.copytree(find(workdir), tmp_path / "6")
    real = store.ocp.load

    def load(*arguments, **named):
        loaded = real(*arguments, **named)
        loaded["params"]["head"]["bias"] = loaded["params"]["head"]["bias"].at[3].add(1e-3)
        return loaded

    monkeypatch.setattr(store.ocp, "load", load)
    with pytest.raises(UserError, match="params/head/bias is not what was saved"):
        vit_jax.load(tmp_path / "6")
    vit_jax.load(tmp_path / "6", checksums=False)


def test_a_step_is_known_by_what_is_in_it(workdir, tmp_path, capfd):
    shutil.copytree(workdir, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "6").rename(checkpoints / "5")
    with pytest.raises(UserError, match="checkpoints/5 is that of step 6. Give it its name back"):
        vit_jax.load(tmp_path / "run")
    assert tiny_run(tmp_path / "run", checkpoint__every=2)["step"] == 6
    assert "goes on from step 4" in capfd.readouterr().err
    shutil.copytree(checkpoints / "6", tmp_path / "best")
    assert vit_jax.load(tmp_path / "best").metadata["step"] == 6
    (tmp_path / "2024").mkdir()
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "2024" / "model.safetensors")
    with pytest.raises(UserError, match="2024/model.safetensors is of no family"):
        vit_jax.load(tmp_path / "2024")
