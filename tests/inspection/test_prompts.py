"""The tokens nearest to a learned prompt, and the prompt as a file."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import vit_jax
from tests.tasks.test_coop import run_config
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.inspection.prompts import learned_prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompt")
    return untrained(folder / "coop", run_config(folder))


def test_a_prompt_that_is_its_words_is_nearest_to_them(folder):
    loaded = vit_jax.load(folder)
    params = {**loaded.params, "prompt": {"context": np.zeros_like(loaded.params["prompt"]["context"])}}
    still = dataclasses.replace(loaded, variables={**loaded.variables, "params": params})
    found = learned_prompt(still, 3)
    assert [row[0] for row in found.nearest] == [("a", 0.0), (" ", 0.0)]
    embedding = np.asarray(params["text"]["embedding"])
    a = still.task.words[0]
    others = np.sort(np.linalg.norm(np.delete(embedding, [1, 2], 0) - embedding[a], axis=1))[:3]
    np.testing.assert_allclose([distance for _, distance in found.nearest[0]], others, rtol=1e-5)


def test_visualize_prints_and_writes_it(folder, tmp_path, capsys):
    assert main(["visualize", "--checkpoint", str(folder), "--output", str(tmp_path / "out")]) == 0
    loaded, printed = vit_jax.load(folder), capsys.readouterr().out
    embedding = np.asarray(loaded.params["text"]["embedding"])
    expected = np.asarray(loaded.params["prompt"]["context"]) + embedding[list(loaded.task.words)]
    written = load_file(tmp_path / "out/prompt.safetensors")
    np.testing.assert_array_equal(written["context"], expected)
    said = json.loads((tmp_path / "out/prompt.json").read_text())
    assert said["task"] == "coop" and said["words"] == "a " and said["classes"] == list(loaded.labels)
    first = said["nearest"][0][0]
    assert f"vector 1: {first['token']!r} at {first['distance']:.3g}" in printed and len(said["nearest"]) == 2


def test_a_checkpoint_without_a_prompt(tmp_path):
    with pytest.raises(UserError, match="has learned no prompt"):
        learned_prompt(vit_jax.load(untrained(tmp_path, tiny_config())))
