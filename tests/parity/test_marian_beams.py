"""The search with four beams beside that of transformers on a Marian with random parameters, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import vit_jax
from vit_jax.nn.decode import beam_search

V, ROWS, S, LENGTH, BEAMS = 20, 12, 7, 10, 4
PAD, END = 0, 1


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=V, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=20, pad_token_id=PAD,
        eos_token_id=END, decoder_start_token_id=PAD, forced_eos_token_id=None, scale_embedding=True,
        activation_function="swish",
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    with torch.no_grad():
        for tensor in theirs.parameters():
            if tensor.requires_grad:
                tensor.normal_(0, 0.6)
        theirs.final_logits_bias.normal_(0, 0.5)
        theirs.final_logits_bias[0, END] += 2.5
    folder = tmp_path_factory.mktemp("marian")
    theirs.save_pretrained(folder)
    return theirs, vit_jax.load(folder)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_beams(both, alpha):
    theirs, loaded = both
    rng = np.random.default_rng(0)
    ids = rng.integers(2, V, (ROWS, S))
    mask = np.arange(S) < rng.integers(2, S + 1, (ROWS, 1))
    ids = np.where(mask, ids, PAD)
    # Theirs stops by default as soon as a guess says so; "never" is the search that goes on until no beam can win.
    how = transformers.GenerationConfig(
        num_beams=BEAMS, length_penalty=alpha, early_stopping="never", max_new_tokens=LENGTH, do_sample=False,
        pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD, num_return_sequences=BEAMS,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    with torch.no_grad():
        found = theirs.generate(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64)),
                                generation_config=how)  # fmt: skip
    expected = found.sequences.numpy()[:, 1:].reshape(ROWS, BEAMS, -1)
    expected = np.pad(expected, ((0, 0), (0, 0), (0, LENGTH - expected.shape[-1])), constant_values=PAD)
    # A padding of number 0 counts as none there: ends are repeated instead.
    expected = np.where(np.cumsum(expected == END, -1) - (expected == END) > 0, PAD, expected)

    model, params = loaded.model, loaded.params
    seen = np.repeat(mask, BEAMS, axis=0)

    @jax.jit
    def search(params):
        memory = model.apply({"params": params}, ids, mask, method="encode")
        first = jnp.full(ROWS, PAD)
        cache = model.text.new_cache(ROWS, LENGTH, S)
        _, cache = model.apply({"params": params}, first[:, None], memory, mask, cache, 0, method="step")

        def step(last, at, cache):
            logits, cache = model.apply({"params": params}, last[:, None], None, seen, cache, at, method="step")
            return logits[:, 0], cache

        return beam_search(
            step, cache, first, jnp.zeros(ROWS, int), length=LENGTH, beams=BEAMS, alpha=alpha, penalty="mean",
            eos_id=END, pad_id=PAD,
        )  # fmt: skip

    ours, scores = search(params)
    # With this bias beams end early without a penalty, later with some, and not at all with much.
    assert ((expected != PAD).sum(-1) < LENGTH).all() == (alpha < 2)
    assert len(np.unique(expected.reshape(-1, LENGTH), axis=0)) > BEAMS, "all rows are alike: the test shows little"
    np.testing.assert_allclose(scores.reshape(-1), found.sequences_scores.numpy(), atol=1e-4)
    np.testing.assert_array_equal(ours, expected)
