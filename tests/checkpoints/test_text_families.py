"""Text models without any other library: what is written is read again, and what cannot be is said."""

import json

import jax
import numpy as np
import pytest

import vit_jax
from tests.marian import write_vocabulary
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.source import StoredModel, open_source
from vit_jax.commands.main import main
from vit_jax.data.byte_pairs import BYTE_OF
from vit_jax.data.fields.tokens import build as tokens_field
from vit_jax.data.tokenizers.ids import build as ids_tokenizer
from vit_jax.naming import build_named
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes

SIZE = {"vocab_size": 30, "width": 16, "num_heads": 2, "mlp_dim": 24, "max_length": 12}
BERT = {"variant": "base", "depth": 1, **SIZE}
CASES = {
    "bert": {"name": "bert", **BERT, "masked_language": True, "next_sentence": True},
    "sentences": {"name": "bert", **BERT, "pooler": False, "pooling": "mean"},
    "gpt1": {"name": "gpt", "variant": "gpt1", "depth": 1, **SIZE, "mlp_dim": 64},
    "gpt2": {"name": "gpt", "variant": "gpt2-small", "depth": 1, **SIZE},
    "marian": {"name": "transformer", "variant": "base", "encoder_depth": 1, "decoder_depth": 1, **SIZE,
               "positions": "halves", "logits_bias": True, "norm_epsilon": 1e-5},
}  # fmt: skip


def run_of_ours(section):
    """An untrained model as `open_source` gives a run, and its parameters."""
    kwargs = {key: value for key, value in section.items() if key != "name"}
    model = build_named("model", section, "config.model")
    shapes = init_shapes(model.init, jax.random.key(0), *example_inputs(model, None))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    metadata = {"model": {"name": section["name"], "kwargs": kwargs}, "preprocess": None, "labels": [],
                "image_size": None}  # fmt: skip
    return StoredModel("run", metadata, lambda: (params, {})), params


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name, tmp_path):
    source, params = run_of_ours(CASES[name])
    export(source, tmp_path, "transformers")
    loaded = vit_jax.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    again = {"name": CASES[name]["name"], **loaded.metadata["model"]["kwargs"]}
    wanted = build_named("model", CASES[name], "config.model")
    assert build_named("model", again, "config.model") == wanted.clone(parent=None)
    task, names = {
        "marian": ("translate", ("source", "target")), "gpt1": ("language_model", ("text",)),
        "gpt2": ("language_model", ("text",)),
    }.get(name, ("features", ("text",)))  # fmt: skip
    assert loaded.metadata["task"]["name"] == task and tuple(loaded.fields) == names
    for key, field in loaded.fields.items():
        assert field.tokenizer.vocab_size == 30 and field.length == (11 if key == "target" else 12)
    assert loaded.preprocess is None


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "marian"])
def test_published_text_is_generated_to_the_last_position(name, tmp_path, capsys):
    """From the command line, in numbers; a translation may be as long as its field."""
    export(run_of_ours(CASES[name])[0], tmp_path, "transformers")
    argv = ["generate", "--checkpoint", str(tmp_path), "--prompt", "3 4 5"]
    assert main([*argv, "--tokens", "9"] if name == "gpt2" else argv) == 0
    words = capsys.readouterr().out.split()
    assert words and all(word.isdigit() and int(word) < 30 for word in words)


def test_features_of_a_published_bert_are_outputs_like_others(tmp_path):
    """By the field's names; what `last_layers` gives is for probes and neighbours."""
    export(run_of_ours(CASES["sentences"])[0], tmp_path, "transformers")
    loaded = vit_jax.load(tmp_path)
    batch = loaded.tokenize(["3 1 4 1 5"] * 2)
    assert loaded.tokenize("3")["text_mask"].tolist() == [[True] + [False] * 11]
    with pytest.raises(UserError, match="does not give 'text_embedding'"):
        loaded.embed_texts("3 1 4")
    found = loaded.outputs(batch, ("features", "tokens", "last_layers_mean"))
    there = np.asarray(found["tokens"])[:, :5]
    np.testing.assert_allclose(found["features"], there.mean(1), atol=1e-6)
    np.testing.assert_allclose(found["last_layers_mean"], found["features"], atol=1e-6)  # one layer
    assert set(loaded.outputs(batch)) == {"features", "tokens"}


def test_a_vocabulary_beside_the_file_is_the_tokenizer(tmp_path):
    """Of as many tokens as the model knows, or fewer: the rest are rows that no text uses."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s"]
    export(run_of_ours(CASES["bert"])[0], tmp_path, "transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    field = vit_jax.load(tmp_path).fields["text"]
    row = field.batched("text", field.read(("A cats", "cat"), "FILE", None))
    assert row["text"][row["text_mask"]].tolist() == [2, 5, 6, 7, 3, 6, 3] and field.length == 12
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    field = vit_jax.load(tmp_path).fields["text"]
    assert field.read("A cats", "FILE", None)[0].tolist() == [1, 6, 7]
    (tmp_path / "vocab.txt").write_text("\n".join(words + [f"w{i}" for i in range(23)]) + "\n")
    with pytest.raises(UserError, match=r"vocab.txt has 31 tokens, and the model knows 30"):
        vit_jax.load(tmp_path)


def test_a_gpt_with_merges_beside_it_goes_on_with_texts(tmp_path):
    """Two merges make 259 tokens: the bytes, those, and the end; a model of more gives features alone."""
    for size, task in ((259, "language_model"), (264, "features")):
        folder = tmp_path / str(size)
        export(run_of_ours(CASES["gpt2"] | {"vocab_size": size})[0], folder, "transformers")
        (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
        loaded = vit_jax.load(folder)
        assert loaded.metadata["task"]["name"] == task
        assert len(loaded.fields["text"].read("the", "FILE", None)) == 1


def test_what_is_converted_keeps_the_vocabulary_beside_it(tmp_path):
    numbers = {name: at for at, name in enumerate([*BYTE_OF, "th", "the", "<|endoftext|>"])}
    export(run_of_ours(CASES["gpt2"] | {"vocab_size": 259})[0], tmp_path / "theirs", "transformers")
    model = {"type": "BPE", "vocab": numbers, "merges": ["t h", "th e"]}
    (tmp_path / "theirs/tokenizer.json").write_text(json.dumps({"model": model}))
    export(open_source(tmp_path / "theirs"), tmp_path / "ours", "orbax")
    (tmp_path / "theirs/tokenizer.json").unlink()
    assert vit_jax.load(tmp_path / "ours").fields["text"].tokenizer.encode("the") == [257]

    (tmp_path / "theirs/merges.txt").write_text("t h\nth e\n")
    (tmp_path / "theirs/vocab.json").write_text(json.dumps(numbers))
    assert vit_jax.load(tmp_path / "theirs").fields["text"].tokenizer.encode("the") == [257]
    (tmp_path / "theirs/vocab.json").write_text(json.dumps(numbers | {"th": 257, "the": 256}))
    with pytest.raises(UserError, match=r"vocab.json gives 'th' the number 257, and GPT-2's order gives it 256"):
        vit_jax.load(tmp_path / "theirs")


def test_a_marian_folder_with_its_three_files_takes_sentences(tmp_path):
    names = write_vocabulary(tmp_path)
    export(run_of_ours(CASES["marian"] | {"vocab_size": len(names)})[0], tmp_path / "theirs", "transformers")
    for name in ("source.spm", "target.spm", "vocab.json"):
        (tmp_path / name).rename(tmp_path / "theirs" / name)
    fields = vit_jax.load(tmp_path / "theirs").fields
    end, start = names.index("</s>"), names.index("<pad>")
    source, target = (fields[n].read("and the other die", "TEXT", None).tolist() for n in ("source", "target"))
    assert source[-1] == target[-1] == end and target[0] == start
    assert max(source + target) < len(names) and source[:-1] != target[1:-1]  # pieces of two languages
    config = json.loads((tmp_path / "theirs/config.json").read_text())
    (tmp_path / "theirs/config.json").write_text(json.dumps(config | {"decoder_start_token_id": 3}))
    with pytest.raises(UserError, match="decoder_start_token_id' is 3, and the vocabulary's padding is"):
        vit_jax.load(tmp_path / "theirs")


def test_what_the_other_library_cannot_hold_is_refused(tmp_path):
    for name, change in (("marian", {"positions": "pairs"}), ("gpt1", {"activation": "gelu_exact"}),
                         ("gpt1", {"mlp_dim": 24})):  # fmt: skip
        with pytest.raises(UserError, match="transformers has no place for this"):
            export(run_of_ours(CASES[name] | change)[0], tmp_path / "x", "transformers")
    with pytest.raises(UserError, match="cannot keep norm_epsilon=1e-06"):  # torch's is not in the config
        export(run_of_ours(CASES["marian"] | {"norm_epsilon": 1e-6})[0], tmp_path / "x", "transformers")
    with pytest.raises(UserError, match="no place for text/norm/bias"):
        export(run_of_ours(CASES["bert"] | {"norm": "pre"})[0], tmp_path / "x", "transformers")
    for name in ("bert", "gpt2"):  # a narrow model's initial values are no part of what it computes
        export(run_of_ours(CASES[name] | {"init_stddev": 0.09})[0], tmp_path / name, "transformers")


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("marian", "config.json", {"scale_embedding": False}, "scale_embedding"),
        ("bert", "config.json", {"model_type": "roberta"}, "a model that vit_jax does not have"),
        ("bert", "config.json", {"hidden_act": "mish"}, "activation is 'mish'"),
        ("bert", "config.json", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", "config.json", {"num_attention_heads": 3}, "num_attention_heads"),
        ("gpt2", "config.json", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", "config.json", {"n_layer": 2}, "n_layer"),
        ("gpt2", "config.json", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("sentences", "1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode"),
    ],
)
def test_a_config_that_means_another_model_is_refused(name, file, changes, message, tmp_path):
    export(run_of_ours(CASES[name])[0], tmp_path, "transformers")
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        open_source(tmp_path)


def test_texts_of_a_model_without_a_vocabulary_are_numbers():
    ids = ids_tokenizer(vocab_size=30, pad_id=7)
    assert (
        ids.encode(" 3 29\n0 ") == [3, 29, 0] and ids.decode([3, 29]) == "3 29" and (ids.pad_id, ids.eos_id) == (7, 29)
    )
    for text, word in (("3 cat", "cat"), ("30", "30"), ("-1", "-1"), ("٣", "٣")):
        with pytest.raises(UserError, match=f"{word!r} is not the number of a token"):
            ids.encode(text)
    with pytest.raises(UserError, match="There is no token 30 of 30"):
        ids_tokenizer(vocab_size=30, eos_id=30)
    field = tokens_field(data=None, length=4, tokenizer={"name": "ids", "vocab_size": 30}, bos=False, eos=False)
    assert field.to_json()["tokenizer"] == {"name": "ids", "vocab_size": 30}
