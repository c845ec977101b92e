"""Adapters of PEFT: what they do to the tensors of a base, and files that are refused. tests/parity has PEFT itself."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest

import vit_jax
from tests.checkpoints.test_export import source
from vit_jax.checkpoints import peft
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.parts.hf import former_names
from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.checkpoints.source import open_source
from vit_jax.commands.main import main
from vit_jax.errors import UserError

QUERY = "vit.encoder.layer.1.attention.attention.query"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["query"], "base_model_name_or_path": "base"}


def factors(module=QUERY, width=64, rank=2, outputs=64):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((rank, width), (outputs, rank)))
    return {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft") / "base"
    export(
        source(gelu="exact", layer_norm_epsilon=1e-12, posemb_resize="bicubic", pooling="token"), folder, "transformers"
    )
    return folder


@pytest.fixture
def write(base, tmp_path):
    """Writes an adapter with changes, beside the base that it names."""

    def written(tensors=None, **config):
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        said = {**CONFIG, "base_model_name_or_path": str(base), **config}
        (folder / peft.CONFIG).write_text(json.dumps(said))
        write_safetensors(folder / peft.WEIGHTS, factors() if tensors is None else tensors)
        return folder

    return written


def test_a_product_is_added_to_its_kernel_alone(write, base):
    params, plain = open_source(write()).read()[0], open_source(base).read()[0]
    a, b = factors().values()
    changed = params["encoder"]["block_01"]["attention"]["query"]
    expected = np.asarray(plain["encoder"]["block_01"]["attention"]["query"]["kernel"]) + 3 * (b @ a).T.reshape(
        64, 1, 64
    )
    np.testing.assert_allclose(changed["kernel"], expected, rtol=1e-5, atol=1e-5)
    changed["kernel"] = plain["encoder"]["block_01"]["attention"]["query"]["kernel"]
    same_tree(params, plain)


def same_tree(one, other):
    assert one.keys() == other.keys()
    for name in one:
        if isinstance(one[name], dict):
            same_tree(one[name], other[name])
        else:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / 2**0.5),
        ({"r": 8, "rank_pattern": {"query": 2}, "alpha_pattern": {"layer.1.attention.attention.query": 5}}, 2.5),
        ({"alpha_pattern": {"0.attention.attention.query": 5}}, 3.0),
    ],
)
def test_scales(config, scale, write):
    assert peft.Adapter(write(**config) / peft.CONFIG).modules == {QUERY: pytest.approx(scale)}


def test_where_a_base_lies(write):
    def base_of(**config):
        return peft.Adapter(write(**config) / peft.CONFIG).base()

    assert base_of(base_model_name_or_path="google/vit-base-patch16-224") == "hf://google/vit-base-patch16-224"
    assert base_of(base_model_name_or_path="owner/name", revision="v2") == "hf://owner/name@v2"
    assert base_of(base_model_name_or_path="owner/name", revision="a/b") == "hf://owner/name@a%2Fb"
    assert base_of(base_model_name_or_path="/no/such/place") == "/no/such/place"
    with pytest.raises(UserError, match="does not say what it was trained beside.*base="):
        base_of(base_model_name_or_path=None)


TOWERS = [f"{tower}_model.encoder.layers.0.self_attn.q_proj.weight" for tower in ("text", "vision")]


@pytest.mark.parametrize(("kind", "adapted"), [("SiglipTextModel", 0), ("CLIPVisionModelWithProjection", 1)])
def test_the_tower_that_was_trained_alone(kind, adapted, write, tmp_path):
    """transformers 5 names its modules without the tower, and both towers of a SigLIP have the same sizes."""
    write_safetensors(tmp_path / "both.safetensors", dict.fromkeys(TOWERS, np.ones((64, 64), np.float32)))
    both, tensors = SafetensorsFile(tmp_path / "both.safetensors"), factors("encoder.layers.0.self_attn.q_proj")
    mapping = {"base_model_class": kind, "parent_library": "transformers"}
    file = peft.AdaptedFile(peft.Adapter(write(tensors, auto_mapping=mapping) / peft.CONFIG), both)
    assert [bool((file[name] != 1).any()) for name in TOWERS] == [adapted == 0, adapted == 1]
    with pytest.raises(UserError, match=f"adapts.*has '{TOWERS[0]}' and '{TOWERS[1]}'. .*base="):
        peft.AdaptedFile(peft.Adapter(write(tensors) / peft.CONFIG), both)


@pytest.mark.parametrize(
    ("later", "former"),
    [
        ("vit.layers.3.attention.k_proj", "vit.encoder.layer.3.attention.attention.key"),
        ("encoder.layer.3.attention.o_proj", "encoder.layer.3.attention.output.dense"),
        ("encoder.layers.1.blocks.0.attention.k_proj", "encoder.layers.1.blocks.0.attention.self.key"),
        ("encoder.layers.1.blocks.0.mlp.fc2", "encoder.layers.1.blocks.0.output.dense"),
    ],
)
def test_names_that_transformers_5_has_in_memory_alone(later, former):
    assert former_names(f"{later}.weight") == f"{former}.weight"


HEAD = {"base_model.model.classifier.weight": np.ones((5, 64), np.float32),
        "base_model.model.classifier.bias": np.zeros(5, np.float32)}  # fmt: skip


def test_a_head_of_more_classes(write):
    found = open_source(write({**factors(), **HEAD}, modules_to_save=["classifier"]))
    assert found.metadata["model"]["kwargs"]["num_classes"] == 5 and found.metadata["labels"] == []
    assert found.read()[0]["head"]["kernel"].shape == (64, 5)


@pytest.mark.parametrize(
    ("tensors", "config", "sentence"),
    [
        (factors(width=32), {}, r"with 32 inputs and 64 outputs, and in .* shape \[64, 64\]\. Name the checkpoint"),
        (factors(outputs=32), {}, "with 64 inputs and 32 outputs"),
        (factors("vit.encoder.layer.7.attention.attention.query"), {}, "layer.7.*which .* does not have"),
        (factors() | factors("vit.layers.1.attention.q_proj"), {}, "under two names"),
        ({}, {}, "adapts no module"),
        (HEAD, {"modules_to_save": ["classifier"]}, "adapts no module"),
        (factors(rank=3), {}, "rank 2. Take both files of one adapter"),
        (factors() | HEAD, {}, r"'classifier.bias' of shape \[5\], which .* does not have"),
        (dict(list(factors().items())[:1]), {}, "one factor alone"),
        ({"base_model.model.x.lora_embedding_A": np.ones((2, 2), np.float32)}, {}, "LoRA of linear layers"),
        ({"vit.weight": np.ones((2, 2), np.float32)}, {}, "none of LoRA's"),
        ({"base_model.model.vit.weight": np.ones((2, 2), np.int8)}, {}, "none of LoRA's"),
        (None, {"peft_type": "IA3"}, "'LORA' alone"),
        (None, {"use_dora": True}, "'use_dora' is True"),
        (None, {"init_lora_weights": "pissa"}, "'pissa', which changes the base too"),
        (None, {"alpha_pattern": {"(a+)+": 2}}, "names of modules are read"),
        (None, {"rank_pattern": {"query": "2"}}, "'rank_pattern.query' is '2'"),
        (None, {"base_model_name_or_path": "/no/such/place"},
         "beside '/no/such/place', which is not there. .*base=.*'base_model_name_or_path' in adapter_config"),
    ],
)  # fmt: skip
def test_refused(tensors, config, sentence, write):
    with pytest.raises(UserError) as error:
        open_source(write(tensors, **config))
    assert re.search(sentence, str(error.value))


def test_files_that_are_not_there(write, tmp_path):
    folder = write()
    (folder / peft.WEIGHTS).unlink()
    with pytest.raises(UserError, match="has no adapter_model.safetensors beside it"):
        open_source(folder)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps([]))
    with pytest.raises(UserError, match='is a pickle.*"adapter_model.safetensors"'):
        open_source(folder)


def test_an_adapter_for_another_model_is_one_sentence(write, tmp_path, capsys):
    assert main(["convert", str(write(factors(width=32))), str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_base_of_ours_has_other_names(write, tmp_path):
    export(source(), tmp_path / "ours", "orbax")
    with pytest.raises(UserError, match="no weight file of the library"):
        open_source(write(), base=str(tmp_path / "ours"))


def test_quantised_weights_are_refused(write, base, tmp_path):
    file = SafetensorsFile(base / "model.safetensors")
    tensors = {name: file[name] for name in file.shapes}
    tensors[f"{QUERY}.weight"] = tensors[f"{QUERY}.weight"].astype(np.int8)
    (tmp_path / "int8").mkdir()
    write_safetensors(tmp_path / "int8" / "model.safetensors", tensors)
    with pytest.raises(UserError, match="as int8, not as floating-point"):
        open_source(write(), base=str(tmp_path / "int8")).read()


def test_command_from_the_weights_themselves(write, tmp_path):
    """Either file of an adapter may be named."""
    assert main(["convert", str(write() / peft.WEIGHTS), str(tmp_path / "whole"), "--to", "transformers"]) == 0
    again, here = vit_jax.load(tmp_path / "whole"), vit_jax.load(write())
    same_tree(again.params, here.params)
    assert again.labels == ("cat", "dog", "a fish")


def test_a_base_on_the_hub_is_known_by_its_commit(write, base, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra 'hub') is not installed")
    commit = "0123456789" * 4
    shutil.copytree(base, tmp_path / "snapshots" / commit)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path / "snapshots" / commit))
    source = open_source(write(base_model_name_or_path="me/vit", revision="v2")).metadata["source"]
    assert source["base"] == f"hf://me/vit@{commit}" and "address" not in source
