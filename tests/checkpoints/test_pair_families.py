"""Models of images and texts without any other library: what is written is read again, whole or one tower of it."""

import collections
import io
import json
import math
import re

import jax
import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

import vit_jax
from vit_jax import UserError
from vit_jax.checkpoints import source as opening
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import hf_bert
from vit_jax.checkpoints.name_map import NameMap
from vit_jax.checkpoints.parts import google_bert
from vit_jax.checkpoints.source import StoredModel, open_source
from vit_jax.checkpoints.transfer import flat_arrays, init_from
from vit_jax.commands.main import main
from vit_jax.naming import build_named
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes

V = 30
TEXT = {"width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 24, "max_length": 7}
VIT = {"variant": "B/8", "width": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2}
BERT = {"name": "bert", "variant": "base", "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 24, "max_length": 7}
CLIP = {"name": "clip", **VIT, "text": TEXT, "embed_dim": 8, "vocab_size": V, "end_id": V - 1}
SIGLIP = {"name": "siglip", **VIT, "text": TEXT, "vocab_size": V}
LIT = {"name": "two_towers", "vocab_size": V, "embed_dim": 16, "project_image": "none", "project_text": "bias",
       "image": {"name": "vit", **VIT}, "max_scale": None,
       "text": {"name": "text_tower", **TEXT, "mask": None, "pooling": "last", "activation": "gelu_tanh",
                "norm_epsilon": 1e-6}}  # fmt: skip
CASES = {
    "clip": ("transformers", CLIP),
    "open_clip": ("open_clip", CLIP),
    "resnet": ("open_clip", {"name": "clip", "variant": "RN50", "depths": [1, 1, 1, 1], "width": 4, "text": TEXT,
                             "embed_dim": 8, "vocab_size": V, "end_id": V - 1}),
    "siglip": ("transformers", SIGLIP),
    "naflex": ("transformers", SIGLIP | {"naflex": True, "grid": 4}),
    "google": ("npz", SIGLIP),
    "lit": ("npz", LIT),
    "lit_bert": ("npz", LIT | {"text": BERT | {"pooler": False, "activation": "gelu_tanh"}}),
    "dual": ("transformers", {"name": "two_towers", "vocab_size": V, "embed_dim": 8, "text": BERT,
                              "image": {"name": "vit", **VIT, "gelu": "exact", "representation_size": 16}}),
}  # fmt: skip


def run_of_ours(section, **changes):
    """An untrained model as `open_source` gives a run, and its parameters."""
    section = section | changes
    kwargs = {key: value for key, value in section.items() if key != "name"}
    model = build_named("model", section, "config.model")
    inputs = example_inputs(model, (32, 32))
    shapes = dict(init_shapes(model.init, jax.random.key(0), *inputs))
    rng = np.random.default_rng(0)
    params, state = (
        jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), tree)
        for tree in (shapes.pop("params"), shapes)
    )
    preprocess = {"image_size": [32, 32], "resize": "short_side", "resize_to": 32, "interpolation": "bicubic"}
    metadata = {"model": {"name": section["name"], "kwargs": kwargs}, "preprocess": preprocess, "labels": [],
                "image_size": [32, 32]}  # fmt: skip
    return StoredModel("run", metadata, lambda: (params, state)), params, state


_LONG = ("open_clip", "resnet", "naflex", "lit", "lit_bert")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.long) if n in _LONG else n for n in CASES])
def written(request, tmp_path_factory):
    """(name, parameters and state, the folder or file that they were written to)."""
    folder, (to, section) = tmp_path_factory.mktemp("model"), CASES[request.param]
    run, params, state = run_of_ours(section)
    path = folder / "model.npz" if to == "npz" else folder
    export(run, path, to)
    return request.param, {"params": params, **state}, path


def test_there_and_back(written):
    name, variables, folder = written
    loaded, section = vit_jax.load(folder), CASES[name][1]
    jax.tree.map(np.testing.assert_array_equal, {"params": loaded.params, **loaded.model_state}, variables)
    again = {"name": section["name"], **loaded.metadata["model"]["kwargs"]}
    wanted = build_named("model", section, "config.model")
    assert build_named("model", again, "config.model") == wanted.clone(parent=None)
    assert loaded.model == wanted.clone(parent=None)
    assert loaded.metadata["task"]["name"] == ("siglip" if section["name"] == "siglip" else "clip")
    assert set(loaded.fields) == {"image", "text"}
    assert loaded.fields["text"].tokenizer.vocab_size == V and loaded.fields["text"].length == 7
    if name in ("siglip", "google"):  # rows end with the end token, and are filled with it
        assert loaded.tokenize("5 6")["text"].tolist() == [[5, 6, 1, 1, 1, 1, 1]]
    if name == "clip":
        assert loaded.tokenize("5 6")["text"].tolist() == [[28, 5, 6, 29, 29, 29, 29]]


def test_each_tower_by_itself(written):
    """`part`, and `init_from`, which takes a tower by the name of its parameters."""
    name, variables, folder = written
    image, text = vit_jax.load(folder, part="encoder"), vit_jax.load(folder, part="text")
    model = (
        {"resnet": "clip_resnet", "naflex": "naflex"}.get(name, "vit"),
        "bert" if name in ("dual", "lit_bert") else "text_tower",
    )
    assert (image.metadata["model"]["name"], text.metadata["model"]["name"]) == model
    assert image.params["encoder"].keys() == variables["params"]["encoder"].keys() and "text" not in image.params
    jax.tree.map(np.testing.assert_array_equal, text.params["text"], variables["params"]["text"])
    assert text.preprocess is None and set(text.fields) == {"text"} and "text" not in image.fields
    assert set(image.model_state) == ({"batch_stats"} if name == "resnet" else set()) and not text.model_state
    found, reports = init_from(variables, {"encoder": str(folder), "text": f"{folder}::text"})
    assert not any(report.missing for report in reports)
    assert {key.split("/")[1] for key in found} == {"encoder", "text"}


def test_blocks_in_one_array_and_no_prefix_are_the_same_model(tmp_path):
    """As big_vision's scan leaves them, and as the files of LiT lie."""
    section = {**SIGLIP, "depth": 2, "text": TEXT | {"depth": 2}}
    run, params, _ = run_of_ours(section)
    export(run, tmp_path / "plain.npz", "npz")
    with np.load(tmp_path / "plain.npz") as file:
        tensors = {name.removeprefix("params/"): file[name] for name in file.files}
    assert {name.split("/")[0] for name in tensors} == {"img", "txt", "t", "b"}
    blocks = collections.defaultdict(list)
    for name in sorted(tensors):
        if match := re.fullmatch(r"(.*encoderblock)_\d+(/.*)", name):
            blocks[match[1] + match[2]].append(tensors.pop(name))
    np.savez(tmp_path / "stacked.npz", **tensors, **{name: np.stack(arrays) for name, arrays in blocks.items()})
    found = vit_jax.load(tmp_path / "stacked.npz")
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found.metadata["model"]["name"] == "siglip" and found.preprocess.image_size == (32, 32)


def test_the_bert_of_lit_has_flaxformer_s_names():
    """Google's converter keeps TensorFlow's matrices, of which transformers' are the transposed: the same parameters in
    both libraries' names."""
    section = BERT | {"vocab_size": V, "pooler": False, "activation": "gelu_tanh"}
    _, params, _ = run_of_ours(section)
    ours = {name: np.asarray(leaf) for name, leaf in flat_arrays(params).items()}
    kwargs = {key: value for key, value in section.items() if key != "name"}
    theirs = hf_bert.name_map(kwargs, {"prefix": ""}).write(ours)
    found = NameMap(google_bert.entries(build_named("model", section, "config.model"), "txt/")).write(ours)
    names = {
        "embedder/embedders_token_ids/embedding": "embeddings.word_embeddings.weight",
        "embedder/embedders_position_ids/embedding": "embeddings.position_embeddings.weight",
        "embedder/embedders_segment_ids/embedding": "embeddings.token_type_embeddings.weight",
    }
    layer = ("encoder_block/layer_sequence/layers_0/", "encoder.layer.0.")
    dense = {"attention_block/attention_layer/" + part: f"attention.self.{part}" for part in ("query", "key", "value")}
    dense |= {"attention_block/dense_layer": "attention.output.dense", "mlp_block/mlp/dense_layer": "intermediate.dense",
              "mlp_block/dense_layer": "output.dense"}  # fmt: skip
    norms = {"attention_block/layer_norm": "attention.output.LayerNorm", "mlp_block/layer_norm": "output.LayerNorm"}
    for parts, first in ((dense, "kernel"), (norms, "scale")):
        for google, hf in parts.items():
            names |= {f"{layer[0]}{google}/{first}": f"{layer[1]}{hf}.weight",
                      f"{layer[0]}{google}/bias": f"{layer[1]}{hf}.bias"}  # fmt: skip
    names |= {"layer_norm/scale": "embeddings.LayerNorm.weight", "layer_norm/bias": "embeddings.LayerNorm.bias"}
    assert found.keys() == {f"txt/BertEncoder_0/{name}" for name in names} and set(names.values()) == theirs.keys()
    for google, hf in names.items():
        wanted = theirs[hf].T if google.endswith("kernel") else theirs[hf]
        np.testing.assert_array_equal(found[f"txt/BertEncoder_0/{google}"], wanted, err_msg=google)


def test_embeddings_of_images_and_texts(tmp_path):
    export(run_of_ours(CLIP)[0], tmp_path, "transformers")
    loaded = vit_jax.load(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 40, 32, 3), np.uint8)
    images, texts = loaded.embed_images(list(pixels), batch_size=3), loaded.embed_texts(["5 6", "7", "8 9 10"])
    for vectors in (images, texts):
        assert vectors.shape == (3, 8)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    prepared = np.stack([loaded.preprocess(one) for one in pixels])
    np.testing.assert_allclose(loaded.embed_images(prepared), images, rtol=1e-5)
    both = {"image": prepared, **loaded.tokenize(["5 6", "7", "8 9 10"])}
    np.testing.assert_allclose(loaded.outputs(both, "text_embedding")["text_embedding"], texts, rtol=1e-5)


def test_images_of_any_aspect_ratio_are_embedded(tmp_path):
    """In patches, as the field of the model cuts them; those of one image do not depend on the others."""
    export(run_of_ours(SIGLIP, naflex=True, grid=4)[0], tmp_path, "transformers")
    loaded = vit_jax.load(tmp_path)
    assert loaded.fields["image"].to_json() == {"name": "naflex", "patch_size": 8, "max_patches": 256}
    rng = np.random.default_rng(1)
    wide, high = (rng.integers(0, 256, size, np.uint8) for size in ((32, 96, 3), (64, 40, 3)))
    both, alone = loaded.embed_images([wide, high]), loaded.embed_images([high])
    assert both.shape == (2, 16)
    np.testing.assert_allclose(both[1:], alone, atol=1e-5)


def test_a_model_without_a_vocabulary_says_so_once(tmp_path, capsys):
    export(run_of_ours(CLIP)[0], tmp_path, "transformers")
    opening.say_once.cache_clear()  # other tests had files of this name
    for _ in range(2):
        vit_jax.load(tmp_path)
    assert capsys.readouterr().err.count("no vocabulary beside it: texts are given as numbers") == 1


def test_with_as_many_tokens_as_openai_s_it_is_that_vocabulary(tmp_path):
    """Padding is 0, as there; what comes after the end is not seen."""
    export(run_of_ours(CLIP, vocab_size=49408, end_id=49407)[0], tmp_path, "transformers")
    loaded = vit_jax.load(tmp_path)
    assert loaded.tokenize("a photo of a cat")["text"].tolist() == [[49406, 320, 1125, 539, 320, 2368, 49407]]
    assert loaded.tokenize("Cat!")["text"].tolist() == [[49406, 2368, 256, 49407, 0, 0, 0]]
    assert loaded.model.text_tower.end_id == 49407


def test_siglip_s_vocabulary_beside_it(tmp_path):
    """Texts lose capitals and punctuation; rows end with the end token, and are filled with it."""
    export(run_of_ours(SIGLIP)[0], tmp_path, "transformers")
    model, text = io.BytesIO(), "The cat sat on the mat, and the other cat sat on the other mat. A photo of two dogs."
    SentencePieceTrainer.train(
        sentence_iterator=iter([text, text.lower()] * 5), model_writer=model, vocab_size=V, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    loaded = vit_jax.load(tmp_path)
    row, ids = loaded.tokenize("THE cat!")["text"][0], SentencePieceProcessor(model_proto=model.getvalue())
    wanted = ids.encode("the cat")[:6]
    assert row.tolist() == wanted + [1] * (7 - len(wanted))
    assert loaded.tokenize("the cat sat on the other mat and the dogs")["text"][0, -1] == 1


def test_a_temperature_beyond_the_limit_is_read_without_one(tmp_path):
    """The libraries limit the factor in training alone."""
    for scale, limit in ((math.log(100), 100.0), (math.log(110), None)):
        source, params, _ = run_of_ours(CLIP, max_scale=limit)
        params["logit_scale"] = np.float32(scale)
        export(source, tmp_path / str(limit), "transformers")
        assert vit_jax.load(tmp_path / str(limit)).model.max_scale == limit
        if limit:
            params["logit_scale"] = np.float32(5)
            with pytest.raises(UserError, match="cannot keep max_scale=100"):
                export(source, tmp_path / "x", "transformers")


@pytest.mark.long
def test_the_command_line_converts_there_and_back_and_one_tower(tmp_path):
    export(run_of_ours(CLIP)[0], tmp_path / "theirs", "transformers")
    for argv in (
        ["theirs", "ours"], ["ours", "again", "--to", "transformers"], ["ours", "open", "--to", "open_clip"],
        ["theirs", "tower", "--part", "encoder", "--to", "transformers"],
    ):  # fmt: skip
        assert (
            main(["convert", *(str(tmp_path / a) if a.isalpha() and a != "to" else a for a in argv[:2]), *argv[2:]])
            == 0
        )
    before = vit_jax.load(tmp_path / "theirs").params
    for name in ("ours", "again", "open"):
        jax.tree.map(np.testing.assert_array_equal, vit_jax.load(tmp_path / name).params, before)
    assert json.loads((tmp_path / "tower/config.json").read_text())["architectures"] == ["CLIPVisionModel"]
    jax.tree.map(np.testing.assert_array_equal, vit_jax.load(tmp_path / "tower").params["encoder"], before["encoder"])


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("clip", "config.json", {"model_type": "clipseg"}, "a model that vit_jax does not have"),
        ("clip", "config.json", {"projection_dim": 9}, "projection_dim"),
        ("clip", "config.json", {"text_config": {"hidden_act": "mish"}}, "activation is 'mish'"),
        ("clip", "config.json", {"vision_config": {"num_hidden_layers": 2}}, "num_hidden_layers"),
        ("open_clip", "open_clip_config.json", {"model_cfg": {"text_cfg": {"pool_type": "last"}}}, "pool_type"),
        ("open_clip", "open_clip_config.json", {"preprocess_cfg": {"resize_mode": "longest"}}, "resize_mode"),
        ("open_clip", "open_clip_config.json", {"preprocess_cfg": {"size": 48}}, "48x48"),
        ("dual", "config.json", {"logit_offset": 1}, "logit_offset"),
    ],
)
def test_a_config_that_means_another_model_is_refused(name, file, changes, message, tmp_path):
    to, section = CASES[name]
    export(run_of_ours(section)[0], tmp_path, to)
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "to"),
    [
        ("clip", {"project_image": "bias"}, "transformers"),
        ("clip", {"text": TEXT | {"pooling": "last"}}, "transformers"),
        ("open_clip", {"activation": "relu"}, "open_clip"),
        ("resnet", {}, "transformers"),
        ("dual", {"logit_bias": -10.0}, "transformers"),
    ],
)
def test_what_the_other_library_cannot_hold_is_refused(name, changes, to, tmp_path):
    with pytest.raises(UserError, match=f"{to} (has no place for this|cannot keep)"):
        export(run_of_ours(CASES[name][1], **changes)[0], tmp_path / "x", to)
