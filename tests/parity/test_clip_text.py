"""CLIP's text tower alone against transformers, under both of its names; every parameter drawn anew."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tests.torchvision_ops  # noqa: F401
import vit_jax
from tests.parity.oracle import assert_close
from tests.parity.test_autoencoders import redrawn
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.source import open_source

SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 60,
    "max_position_embeddings": 12, "bos_token_id": 58, "eos_token_id": 59,
}  # fmt: skip
IDS = np.array([[58, 4, 9, 59, 59, 59], [58, 59, 0, 0, 0, 0]], np.int32)


def saved(folder, old: bool, **more):
    """A tower of transformers' in a folder, as published files or as transformers 5 name it."""
    model = redrawn(transformers.CLIPTextModel(transformers.CLIPTextConfig(**SIZES | more)))
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = {name.removeprefix("text_model."): x for name, x in load_file(file).items()}
    if old:
        tensors = {f"text_model.{name}": x for name, x in tensors.items()}
        tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(tensors, file, {"format": "pt"})
    return model


@pytest.mark.parametrize("old", [True, False], ids=["published", "transformers-5"])
def test_text_tower(old, tmp_path):
    theirs = saved(tmp_path / "in", old, hidden_act="quick_gelu" if old else "gelu")
    ours = vit_jax.load(tmp_path / "in")
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(IDS).long())
    found = ours.outputs({"text": IDS, "text_mask": IDS > 0}, ("tokens", "features"))
    assert_close(found["tokens"], wanted.last_hidden_state.numpy(), "tokens")
    assert_close(found["features"], wanted.pooler_output.numpy(), "features")
    assert ours.tokenize("4 9")["text"][0].tolist()[:5] == [58, 4, 9, 59, 59]  # padded with the end, as theirs
    export(open_source(tmp_path / "in"), tmp_path / "out", "transformers")
    again = transformers.CLIPTextModel.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.from_numpy(IDS).long()).pooler_output, wanted.pooler_output)
