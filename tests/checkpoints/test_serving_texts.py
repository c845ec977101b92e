"""Exported programs of texts: tokens in, the model's outputs out, and what makes tokens of texts beside them."""

import json

import numpy as np
import pytest

import vit_jax
from tests.tiny import untrained
from tests.tiny_pairs import CLIP, TEXT, pairs_config
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.serving import stablehlo
from vit_jax.checkpoints.serving.exported_texts import ExportedTexts, inputs_of, write_tokenizer
from vit_jax.checkpoints.serving.text_program import TextProgram
from vit_jax.checkpoints.serving.writing import export_program
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of two towers with CLIP's vocabulary."""
    folder = tmp_path_factory.mktemp("pairs")
    config = pairs_config(folder, data__fields__text__tokenizer="clip_bpe")
    return untrained(folder / "run", config, signed=True)


@pytest.fixture(scope="module")
def folder(run):
    """Its text tower, written by the command for any number of texts."""
    path = run.parent / "served"
    assert main(["export", str(run), "--output", str(path), "--output-name", "text_embedding"]) == 0
    return path


def test_outputs_are_the_model_s(run, folder):
    texts = ["a cat", "two dogs!", "!"]  # the token of "!" is what pads, too
    exported, loaded = vit_jax.load_exported(folder), vit_jax.load(run)
    rows = exported.prepare(texts)
    assert list(rows) == ["text"] and rows["text"].shape == (3, 10)
    np.testing.assert_allclose(exported(rows)["text_embedding"], loaded.embed_texts(texts), atol=1e-5)
    np.testing.assert_array_equal(exported(rows["text"])["text_embedding"], exported(rows)["text_embedding"])
    about = json.loads((folder / "export.json").read_text())
    assert about["inputs"] == [{"shape": ["batch", 10], "dtype": "int32", "name": "text"}]
    assert about["checked"]["texts"] == 10 and about["checked"]["differences"]["text_embedding"] < 1e-5


def test_the_image_tower_is_left_out_and_the_tokenizer_beside(folder):
    names = stablehlo.SafetensorsFile(folder / stablehlo.PARAMETERS).shapes
    assert names and not any("encoder" in name for name in names)
    assert sorted(path.name for path in (folder / "tokenizer").iterdir()) == [
        "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (np.zeros((2, 9), np.int32), r"takes text int32 \[batch, 10\], not int32 \[2, 9\]"),
        (np.zeros((2, 10), np.int64), r"not int64 \[2, 10\]"),
        (np.zeros((0, 10), np.int32), r"not int32 \[0, 10\]"),
        ({"image": np.zeros((2, 10))}, "takes text, not image"),
    ],
)
def test_what_it_does_not_take(folder, rows, sentence):
    with pytest.raises(UserError, match=sentence):
        vit_jax.load_exported(folder)(rows)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--output-name", "text_embedding", "--preprocessing", "normalize"], "--preprocessing is of images"),
        (["--output-name", "text_embedding", "--format", "savedmodel", "--platforms", "cpu"], "of images alone"),
        (["--output-name", "text_embedding", "--output-name", "logit_scal"], "does not give 'logit_scal'"),
    ],
)
def test_what_cannot_be_exported(run, tmp_path, capsys, argv, sentence):
    assert main(["export", str(run), "--output", str(tmp_path / "new"), *argv]) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_is_compared_before_it_is_written_is_varied(run):
    """Of rows of one token, wrong embeddings of all others would not be seen."""
    rows = TextProgram(vit_jax.load(run), ("text_embedding",)).drawn(np.random.default_rng(0), 10)["text"]
    assert len(np.unique(rows)) > 20 and len({int(row.argmax()) for row in rows}) > 3  # where texts end


def test_an_output_of_no_text_is_refused(run):
    with pytest.raises(UserError, match="logit_scale depends on no text"):
        TextProgram(vit_jax.load(run), ("logit_scale",))


def test_a_vocabulary_comes_along_and_where_it_lay_does_not(tmp_path):
    (tmp_path / "mine.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]))
    tokens = {"name": "wordpiece", "path": str(tmp_path / "mine.txt")}
    fields = build_fields({"text": {"name": "tokens", "length": 4, "tokenizer": tokens}}, Context(None, ()))
    (tmp_path / "out").mkdir()
    write_tokenizer(fields, tmp_path / "out")
    (tmp_path / "mine.txt").unlink()
    exported = ExportedTexts(tmp_path / "out", JsonObject(), {"text": JsonObject()}, dict)
    assert exported.prepare(["cat"])["text"].tolist() == [[2, 5, 3, 0]]
    assert str(tmp_path) not in (tmp_path / "out" / "fields.json").read_text()


@pytest.mark.long
def test_what_differs_is_not_written(run, tmp_path, monkeypatch):
    written = stablehlo.write_safetensors
    monkeypatch.setattr(
        stablehlo, "write_safetensors", lambda path, tensors: written(path, {k: 1.01 * x for k, x in tensors.items()})
    )
    program = TextProgram(vit_jax.load(run, part="text"), ("features",), 10)
    with pytest.raises(UserError, match="gives other features than the model"):
        export_program(program, tmp_path / "x", "stablehlo", ("cpu",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_model_that_sees_padding_takes_the_mask(tmp_path):
    model = {**CLIP, "text": {**TEXT, "mask": None, "pooling": "last"}}
    loaded = vit_jax.load(untrained(tmp_path / "run", pairs_config(tmp_path, model=model)), part="text")
    assert TextProgram(loaded, ("features",)).inputs == ("text",)  # SigLIP's see padding as what it is
    assert TextProgram(loaded, ("last_layers_mean",)).inputs == ("text", "text_mask")


@pytest.mark.parametrize("inputs", [None, [], [{"name": "text", "shape": ["b", -1], "dtype": "int32"}], [7], 7])
def test_a_damaged_description_is_refused(inputs):
    with pytest.raises(UserError, match=r"export.json: 'inputs"):
        inputs_of(JsonObject({"inputs": inputs}, "export.json"))
