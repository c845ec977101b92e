"""What the words of a text attend to: the weights of the forward pass, put together by words."""

import dataclasses

import numpy as np
import pytest

import vit_jax
from tests.checkpoints.test_text_families import CASES, run_of_ours
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.commands.main import main
from vit_jax.inspection.texts import text_attention

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "it"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A BERT with a vocabulary, a GPT and a Marian without, as folders of weights."""
    top = tmp_path_factory.mktemp("models")
    for name in ("bert", "gpt2", "marian"):
        export(run_of_ours(CASES[name])[0], top / name, "transformers")
    (top / "bert" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return top


def first_layer(params, ids, heads):
    """The weights of BERT's first block [H, T, T] in NumPy, of its own parameters."""
    text = params["text"]
    x = text["embedding"][ids] + text["pos_embedding"][: len(ids)] + text["segment_embedding"][0]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * text["norm_embedding"]["scale"] + text["norm_embedding"]["bias"]
    attention = text["block_00"]["attention"]
    query, key = (
        np.einsum("td,dhc->htc", x, attention[part]["kernel"]) + np.asarray(attention[part]["bias"])[:, None]
        for part in ("query", "key")
    )
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def test_weights_are_those_of_the_model_by_words(folders):
    loaded = vit_jax.load(folders / "bert")
    found = text_attention(loaded, "the cats it")
    assert found.words == ("[CLS]", "the", "cats", "it", "[SEP]")
    assert found.special.tolist() == [True, False, False, False, True]
    assert found.find("IT ") == found.last == 3
    tokens = first_layer(loaded.params, np.array([2, 5, 6, 7, 8, 3]), 2)
    got = np.stack(
        [tokens[..., 0], tokens[..., 1], tokens[..., 2] + tokens[..., 3], tokens[..., 4], tokens[..., 5]], -1
    )
    want = np.stack([got[:, 0], got[:, 1], (got[:, 2] + got[:, 3]) / 2, got[:, 4], got[:, 5]], 1)
    assert found.weights.shape == (1, 2, 5, 5)
    np.testing.assert_allclose(found.weights[0], want, atol=1e-5)


def test_a_gpt_looks_back_and_of_a_translation_it_is_the_encoder(folders):
    weights = text_attention(vit_jax.load(folders / "gpt2"), "3 4 5 6").weights
    assert weights.shape == (1, 2, 4, 4) and not np.triu(weights, 1).any()
    found = text_attention(vit_jax.load(folders / "marian"), "3 4 5 6")
    assert found.words[:4] == ("3", "4", "5", "6") and found.weights.shape == (1, 2, 5, 5)  # with the end
    assert np.triu(found.weights, 1).any()
    np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-6)


@pytest.mark.long
def test_the_command_draws_it(folders, tmp_path, capsys):
    argv = ["visualize", "--checkpoint", str(folders / "bert"), "--text", "the cats $ it", "--text", "cat"]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 0
    kinds = ("heads", "layers", "word")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html", *(f"text_0{i}_{kind}.png" for i in (1, 2) for kind in kinds),
    ]  # fmt: skip
    assert main([*argv, "--output", str(tmp_path / "chosen"), "--word", "cats"]) == 2
    assert "sees no word 'cats'" in capsys.readouterr().err  # in the second text


def test_mistakes(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    untrained(tmp_path / "images", tiny_config())
    for argv, message in (
        (["bert"], "There is nothing to look at"),
        (["bert", "a.png", "--text", "cat"], "There is no image"),
        (["bert", "--word", "cat", "a.png"], "--word is of a text alone"),
        (["gpt2", "--text", "cat"], "'cat' is not the number of a token"),
        (["bert", "--text", ""], "empty text"),
        (["gpt2", "--text", ""], "empty text"),
        (["images", "--text", "cat"], "no text model"),
    ):
        checkpoint = tmp_path / "images" if argv[0] == "images" else folders / argv[0]
        assert main(["visualize", "--checkpoint", str(checkpoint), *argv[1:]]) == 2
        assert message in capsys.readouterr().err, argv
    with pytest.raises(UserError, match="At most 64 can be drawn"):
        text_attention(_longer(vit_jax.load(folders / "gpt2")), " ".join(["3"] * 65))


def _longer(loaded):
    """With room for more tokens; zeros do where nothing is computed with them."""
    size = 100
    params = loaded.params["text"]
    text = {**params, "pos_embedding": np.zeros((size, params["pos_embedding"].shape[1]), np.float32)}
    model = loaded.model.clone(text=loaded.model.text.clone(max_length=size, parent=None))
    field = dataclasses.replace(loaded.fields["text"], length=size)
    return dataclasses.replace(
        loaded,
        task=dataclasses.replace(loaded.task, model=model),
        variables={"params": {"text": text}, "model_state": {}},
        fields=dataclasses.replace(loaded.fields, kinds={"text": field}),
    )
