"""all-MiniLM-L6-v2: a BERT of six layers that was trained to give sentences of one meaning one direction."""

import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.safetensors import SafetensorsFile
from vit_jax.checkpoints.source import open_source


@pytest.fixture(scope="module")
def model(minilm):
    return vit_jax.load(minilm)


def features(model, *sentences):
    """Of length 1, as sentence-transformers makes them last."""
    field = model.fields["text"]
    rows = [field.batched("text", field.read(sentence, "sentence", None)) for sentence in sentences]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0] if not name.endswith("_cut")}
    found = np.asarray(model.outputs(batch, ("features",))["features"])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_parameters(model):
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == 22_713_216
    assert model.model.pooling == "mean" and model.fields["text"].length == 256


def test_cosines_are_those_of_transformers(model):
    """transformers and a forward pass in plain NumPy agree on these."""
    cat, kitten, market = features(model, "a cat", "a kitten", "the stock market crashed")
    assert cat @ kitten == pytest.approx(0.76628, abs=1e-4)
    assert cat @ market == pytest.approx(0.06949, abs=1e-4)


def test_written_it_is_the_same_file(minilm, tmp_path):
    export(open_source(minilm), tmp_path / "out", "transformers")
    theirs, ours = (SafetensorsFile(folder / "model.safetensors") for folder in (minilm, tmp_path / "out"))
    ignored = {"embeddings.position_ids"}
    assert set(ours.shapes) == set(theirs.shapes) - ignored
    for name in ours.shapes:
        assert ours[name].tobytes() == theirs[name].tobytes(), name
