"""What lies at a path: published files, our own checkpoints, and what is refused."""

import hashlib
import json
import os
import pickle
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from etils import epath

import vit_jax
from tests.checkpoints.test_export import source as random_vit
from vit_jax.checkpoints import families, remote
from vit_jax.checkpoints.description import overridden
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.formats import FORMATS
from vit_jax.checkpoints.name_map import NameMap, linear, same
from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.checkpoints.source import _to_device, families_of, open_source
from vit_jax.checkpoints.transfer import init_from
from vit_jax.commands.main import main
from vit_jax.errors import UserError
from vit_jax.models import vit


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


def refused(path, message, **options):
    with pytest.raises(UserError, match=message):
        open_source(path, **options)


def test_pickles_are_never_opened(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "w.pth", r"is a pickle, or may be one.*torch.load\(.*weights_only=True\), and then save_file\(")
    refused(tmp_path, "w.pth is a pickle, or may be one")  # a folder with nothing better
    (tmp_path / "weights").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "weights", "is a pickle, or may be one")
    (tmp_path / "disguised.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "disguised.safetensors", "cut short or no safetensors file|too short")
    (tmp_path / "disguised.npz").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "disguised.npz", "is not an .npz archive")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", "not a weight file that vit_jax reads")


def test_unknown_families_are_named_with_the_known_ones(tmp_path):
    write_safetensors(tmp_path / "m.safetensors", {"lstm.weight_ih": np.zeros((4, 4), np.float32)})
    refused(
        tmp_path / "m.safetensors",
        r"of no family that vit_jax knows; its tensors are 'lstm.weight_ih'.*docs/weights.md",
    )


def test_a_folder_with_several_files_wants_a_name(tmp_path):
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"x": np.zeros(1, np.float32)})
    refused(tmp_path, "holds several weight files: a.safetensors, b.safetensors")
    write_safetensors(tmp_path / "model.safetensors", {"x": np.zeros(1, np.float32)})
    refused(tmp_path, "model.safetensors is of no family")  # the name that libraries give wins


def test_damaged_sidecars(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"x": np.zeros(1, np.float32)})
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "config.json is not JSON")
    (tmp_path / "config.json").write_text(json.dumps([1]))
    refused(tmp_path, "config.json is not a JSON object")


def test_sha256(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"x": np.zeros(1, np.float32)})
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    refused(path, f"has the sha256 {right}, not 0000", sha256="0" * 64)
    refused(path, "of no family", sha256=right.upper())
    refused(path, "of no family", sha256="sha256:" + right)


def test_our_own_checkpoints_take_no_sha256(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    refused(tmp_path, "not a published weight file, so it takes no sha256", sha256="0" * 64)


def test_the_model_of_a_run_takes_what_may_change_after_training(monkeypatch):
    """In all three places of the metadata, and nothing else of the model."""
    monkeypatch.setattr(vit, "AFTER_TRAINING", ("drop_path_rate",), raising=False)
    kwargs = {"variant": "mu/16", "drop_path_rate": 0.0}
    section = {"name": "vit", **kwargs}
    task = {"name": "classify", "kwargs": {"model": section, "label_smoothing": 0.1}}
    model = {"name": "vit", "kwargs": {**kwargs, "num_classes": 2}}
    metadata = {"step": 3, "model": model, "task": task, "config": {"seed": 1, "model": section}}
    before = json.dumps(metadata)
    changed = overridden(metadata, {"drop_path_rate": 0.5}, "runs/x")
    assert json.dumps(metadata) == before
    assert json.dumps(changed) == before.replace('"drop_path_rate": 0.0', '"drop_path_rate": 0.5')
    with pytest.raises(
        UserError, match="runs/x is a .* not be given another num_heads. It may be given drop_path_rate"
    ):
        overridden(metadata, {"num_heads": 3}, "runs/x")
    monkeypatch.delattr(vit, "AFTER_TRAINING")
    with pytest.raises(UserError, match="another drop_path_rate. Leave it out"):
        overridden(metadata, {"drop_path_rate": 0.5}, "runs/x")


def test_without_the_hub_s_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(
        "hf://timm/vit_base_patch16_224", r"needs huggingface_hub, which is not installed. pip install 'vit_jax\[hub\]'"
    )


def test_without_a_network(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra 'hub') is not installed")

    def offline(*args, **kwargs):
        raise ConnectionError("Name or service not known\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    refused("hf://timm/vit", r"hf://timm/vit could not be fetched: Name or service not known\. Check the address")
    refused("hf://timm", "names no repository of the hub")


def test_a_hub_name_that_does_not_exist(monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra 'hub') is not installed")
    errors = pytest.importorskip("huggingface_hub.errors")

    def absent(*args, **kwargs):
        raise errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError, "404 Client Error")

    monkeypatch.setattr(hub, "snapshot_download", absent)
    refused(
        "hf://facebook/dinov2-bse",
        "There is no repository facebook/dinov2-bse on the hub, or it is not open to you. "
        r"Did you mean 'hf://facebook/dinov2-base'\?",
    )
    refused("hf://nobody/nothing-at-all-like-it", "'vit_jax models' lists addresses")


def test_the_hub_s_folder_is_read_like_any_other(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra 'hub') is not installed")
    asked = {}

    def download(name, revision, allow_patterns, ignore_patterns):
        asked.update(name=name, revision=revision, patterns=[*asked.get("patterns", ()), *allow_patterns])
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    write_safetensors(tmp_path / "model.safetensors", {"x": np.zeros(1, np.float32)})
    refused("hf://timm/vit@main", "model.safetensors is of no family")
    assert {"*.safetensors", "*.npz", "config.json", "*.safetensors.index.json"} <= set(asked["patterns"])
    assert asked["name"] == "timm/vit" and asked["revision"] == "main"
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in asked["patterns"])
    asked.clear()
    refused("hf://timm/vit/other.npz", "There is no file 'other.npz'")
    assert {"other.npz", "config.json", "open_clip_config.json"} <= set(asked["patterns"])
    asked.clear()
    refused("hf://timm/vit/unet/other.npz", "There is no file 'unet/other.npz'")
    assert {"unet/other.npz", "unet/config.json"} <= set(asked["patterns"]) and "config.json" not in asked["patterns"]


PIPELINE = {
    name: ["diffusers", "X"] for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "safety_checker")
}
UNWANTED = [
    "v1-5-pruned.safetensors",
    "v1-5.ckpt",
    "safety_checker/model.safetensors",
    "unet/diffusion_pytorch_model.bin",
]


@pytest.mark.parametrize(
    ("index", "wanted", "unwanted"),
    [
        (
            PIPELINE,
            [
                "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
                "vae/diffusion_pytorch_model.fp16.safetensors", "text_encoder/config.json",
                "text_encoder/model.safetensors.index.json", "text_encoder/model-1-of-1.safetensors",
                "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json", "model_index.json",
            ],
            [
                *UNWANTED, "unet/diffusion_pytorch_model.fp16.safetensors",
                "unet/diffusion_pytorch_model.non_ema.safetensors", "text_encoder/model.fp16.safetensors",
            ],
        ),
        (
            {"unet": ["diffusers", "X"], "scheduler": ["diffusers", "X"]},
            ["model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"],
            ["diffusion_pytorch_model.bin"],
        ),
        (
            None,
            ["model.safetensors.index.json", "model-1-of-1.safetensors", "config.json", "1_Pooling/config.json"],
            ["onnx/model.safetensors", "pytorch_model.bin", "modeling.py"],
        ),
    ],
    ids=["folders", "one model", "no pipeline"],
)  # fmt: skip
def test_of_a_repository_only_what_is_read_is_fetched(index, wanted, unwanted, monkeypatch, tmp_path):
    """A whole Stable Diffusion is there several times over: in one file, in folders, in half precision, as pickles."""
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra 'hub') is not installed")
    fits = pytest.importorskip("huggingface_hub.utils").filter_repo_objects
    contents = dict.fromkeys([*wanted, *unwanted], "{}")
    shards = json.dumps({"weight_map": {"x": "model-1-of-1.safetensors"}})
    contents |= {name: shards for name in contents if name.endswith(".index.json")}
    contents |= {} if index is None else {"model_index.json": json.dumps(index)}
    fetched = []

    def download(name, revision, allow_patterns, ignore_patterns):
        for file in fits(contents, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(contents[file])
            fetched.append(file)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert remote.fetch("hf://owner/name") == tmp_path
    assert sorted(fetched) == sorted(wanted)


def test_urls_are_fetched_once_and_whole(monkeypatch, tmp_path):
    """A local folder stands for a bucket: epath gives both the same interface."""
    bucket, local = tmp_path / "bucket", epath.Path
    bucket.mkdir()
    write_safetensors(bucket / "m.safetensors", {"x": np.zeros(1, np.float32)})
    beside = ("config.json", "preprocessor_config.json", "scheduler_config.json")
    for name in beside:
        (bucket / name).write_text("{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote.epath, "Path", lambda path: local(str(path).replace("fake://", f"{tmp_path}/")))
    found = remote.fetch("fake://bucket/m.safetensors")
    assert found.read_bytes() == (bucket / "m.safetensors").read_bytes()
    # Without the last one a diffusion would be sampled with noise that it was not trained with.
    assert all((found.parent / name).exists() for name in beside)
    (bucket / "m.safetensors").unlink()
    assert remote.fetch("fake://bucket/m.safetensors") == found
    with pytest.raises(UserError, match="There is nothing at fake://bucket/n.npz"):
        remote.fetch("fake://bucket/n.npz")
    assert [p.name for p in found.parent.iterdir() if "part" in p.name] == []


def test_an_unknown_scheme():
    with pytest.raises(UserError, match="nosuch://x/y.npz|nothing at"):
        vit_jax.load("nosuch://x/y.npz")


def test_each_family_says_what_it_is():
    """Every module of the folder is a family: helpers that several share are in `vit_jax.checkpoints.parts`."""
    folder = Path(families.__file__).parent
    assert {f.__name__.split(".")[-1] for f in families_of()} == {p.stem for p in folder.glob("[!_]*.py")}
    for family in families_of():
        assert all(callable(getattr(family, name)) for name in ("describe", "name_map", "sidecar"))
        assert family.LIBRARY in {*FORMATS, "google"} and family.MODELS
        assert isinstance(family.WRITES, tuple)


COMMIT = "0123456789" * 4


@pytest.fixture
def on_the_hub(small, tmp_path, monkeypatch):
    """A repository, as the hub's library keeps it. Returns the revisions that were asked for."""
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra 'hub') is not installed")
    folder, asked = tmp_path / "models--me--vit" / "snapshots" / COMMIT, []
    shutil.copytree(small[0], folder)
    monkeypatch.setattr(hub, "snapshot_download", lambda _, revision, **__: asked.append(revision) or str(folder))
    return asked


def test_what_comes_from_the_hub_is_known_by_its_commit(small, on_the_hub):
    """And all of it comes from one commit, whatever a branch does meanwhile."""
    for address in ("hf://me/vit", "hf://me/vit@main", "hf://me/vit/model.safetensors"):
        file = "/model.safetensors" * address.endswith("safetensors")
        assert open_source(address).metadata["source"]["address"] == f"hf://me/vit@{COMMIT}{file}"
    assert on_the_hub == [None, COMMIT, "main", COMMIT, None]
    for revision, meant in (("refs/pr/12", "refs/pr/12"), ("refs/convert/parquet", "refs/convert/parquet"),
                            ("my%2Fbranch", "my/branch")):  # fmt: skip
        for file in ("", "/model.safetensors"):
            on_the_hub.clear()
            found = open_source(f"hf://me/vit@{revision}{file}").metadata["source"]["address"]
            assert found == f"hf://me/vit@{COMMIT}{file}" and on_the_hub[0] == meant
    assert not {"address", "base"} & open_source(small[0]).metadata["source"].keys()
    _, [report] = init_from({"params": open_source(small[0]).read()[0]}, "hf://me/vit")
    assert report.path == f"hf://me/vit@{COMMIT}" and f"init_from hf://me/vit ({report.path}): " in str(report)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A ViT in timm's names, and its tensors."""
    folder = tmp_path_factory.mktemp("small")
    source = random_vit()
    export(source, folder / "timm", "timm")
    file = SafetensorsFile(folder / "timm" / "model.safetensors")
    return folder / "timm", {name: file[name].copy() for name in file.shapes}


def changed(small, folder, tensors, **config):
    config = {**json.loads((small[0] / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", small[1] | tensors)
    return folder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(small, tmp_path, value):
    kernel = small[1]["blocks.0.mlp.fc1.weight"].copy()
    kernel[3, 5] = value
    path = changed(small, tmp_path, {"blocks.0.mlp.fc1.weight": kernel})
    with pytest.raises(UserError, match="has values in encoder/block_00/mlp/fc1/kernel that are NaN or infinite"):
        vit_jax.load(path)
    loaded = vit_jax.load(path, allow_nonfinite=True).params["encoder"]["block_00"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(loaded[5, 3], np.float32(value))
    if not np.isnan(value):
        return
    assert main(["convert", str(path), str(tmp_path / "out")]) == 2
    assert main(["convert", str(path), str(tmp_path / "out"), "--allow-nonfinite"]) == 0
    with pytest.raises(UserError, match="out.* has values in encoder/block_00/mlp/fc1/kernel that are NaN"):
        vit_jax.load(tmp_path / "out")  # our own checkpoints alike
    assert vit_jax.load(tmp_path / "out", allow_nonfinite=True)


def test_finite_values_whose_sum_is_not(small, tmp_path):
    kernel = np.full_like(small[1]["blocks.0.mlp.fc1.weight"], 3e38)
    assert vit_jax.load(changed(small, tmp_path, {"blocks.0.mlp.fc1.weight": kernel}))
    kernel = np.full(kernel.shape, 1e300)
    with pytest.raises(UserError, match="NaN or infinite"):
        vit_jax.load(changed(small, tmp_path, {"blocks.0.mlp.fc1.weight": kernel}))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_whole_numbers_are_no_parameters(small, tmp_path, dtype):
    path = changed(small, tmp_path, {"norm.weight": np.ones(64, dtype)})
    with pytest.raises(UserError, match=f"holds 'norm.weight' as {np.dtype(dtype)}, not as floating-point numbers"):
        vit_jax.load(path)


def test_names_that_count_to_a_billion(small, tmp_path):
    for name in ("blocks.100000000.norm1.weight", "blocks.999.norm1.weight", f"blocks.{'9' * 5000}.norm1.weight"):
        with pytest.raises(UserError, match="has a tensor 'blocks.*that this model does not"):
            open_source(changed(small, tmp_path, {name: np.ones(64, np.float32)}))


def test_sizes_are_compared_before_anything_is_read(small, tmp_path, monkeypatch):
    source = open_source(changed(small, tmp_path, {"head.weight": np.ones((3, 65), np.float32)}))
    monkeypatch.setattr(SafetensorsFile, "__getitem__", lambda self, name: pytest.fail(f"{name} was read"))
    with pytest.raises(
        UserError, match=r"'head.weight' of shape \[3, 65\] where the model needs head/kernel \[64, 3\]"
    ):
        source.read()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    refused(tmp_path, "is not a regular file")
    refused(tmp_path / "model.safetensors", "is not a regular file")


def test_a_file_and_its_parameters_are_not_in_memory_together(tmp_path):
    """Tensors come one by one from the file's pages: beside the parameters there are copies of two of them at most."""
    count, side = 40, 128
    rng, path = np.random.default_rng(0), tmp_path / "many.safetensors"
    write_safetensors(path, {f"{i}.weight": rng.normal(size=(side, side)).astype(np.float32) for i in range(count)})
    file = SafetensorsFile(path)
    kept = [same if i % 2 else linear for i in range(count)]
    names = NameMap([kind(f"{i}/kernel", f"{i}.weight") for i, kind in enumerate(kept)])
    shapes = {f"{i}/kernel": (side, side) for i in range(count)}
    tracemalloc.start()
    try:
        found = dict(_to_device(names.read(file.__getitem__, shapes, path), path, False))
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What the device took over from NumPy as it lay is in both.
    assert len(found) == count and most - now < 3 * 4 * side**2
