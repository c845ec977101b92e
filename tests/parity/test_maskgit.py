"""MaskGIT beside transformers' BERT, which it is but for the embedding of segments."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from tests.parity.oracle import TOLERANCE, error
from vit_jax.checkpoints.families import hf_bert
from vit_jax.checkpoints.source import flat_shapes, nested
from vit_jax.models import maskgit
from vit_jax.nn.init_shapes import init_shapes

V, CONDITIONS, LENGTH = 20, 4, 12
SIZE = {"width": 32, "depth": 3, "num_heads": 4, "mlp_dim": 48}
BERT = {"vocab_size": V + CONDITIONS + 1, "max_position_embeddings": LENGTH + 1, "type_vocab_size": 1,
        "hidden_act": "gelu_new"}  # fmt: skip


def test_bert():
    torch.manual_seed(3)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, **BERT
    )
    theirs = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3)
        theirs.bert.embeddings.token_type_embeddings.weight.zero_()
    state = {name: x.detach().numpy() for name, x in theirs.named_parameters()}
    kwargs = {"vocab_size": BERT["vocab_size"], "max_length": LENGTH + 1, "num_segments": 1, "pooler": False,
              "masked_language": True, **SIZE}  # fmt: skip
    entries = hf_bert.name_map(kwargs, {}).entries
    assert {name for entry in entries for name in entry.theirs} == state.keys()
    params = {}
    for entry in entries:
        params |= dict(zip(entry.ours, entry.read(*(state[name] for name in entry.theirs)), strict=True))
    params = {name.replace("text/", "transformer/"): jnp.asarray(x) for name, x in params.items()}
    assert not params.pop("transformer/segment_embedding").any()

    model = maskgit.build(vocab_size=V, num_tokens=LENGTH, num_conditions=CONDITIONS, **SIZE)
    shapes = init_shapes(model.init, jax.random.key(0), *model.example_inputs(None))["params"]
    assert flat_shapes(shapes) == {name: x.shape for name, x in params.items()}
    rng = np.random.default_rng(0)
    labels, tokens, masked = (
        rng.integers(0, CONDITIONS, 3),
        rng.integers(0, V, (3, LENGTH)),
        rng.random((3, LENGTH)) < 0.5,
    )
    found = jax.jit(model.apply)({"params": nested(params)}, labels, tokens, masked)
    ids = np.concatenate([V + labels[:, None], np.where(masked, V + CONDITIONS, tokens)], axis=1)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(ids), output_hidden_states=True)
    for name, reference in (("tokens", wanted.hidden_states[-1]), ("logits", wanted.logits[..., :V])):
        reference = reference.numpy()[:, 1:]
        largest = error(np.asarray(found[name]), reference)
        print(f"\nPARITY BertForMaskedLM, {name} | {largest:.1e}, reference up to {np.abs(reference).max():.1f}")
        assert largest < TOLERANCE


def test_published_size():
    config = transformers.BertConfig(
        hidden_size=768, num_hidden_layers=24, num_attention_heads=16, intermediate_size=3072, vocab_size=2025,
        max_position_embeddings=257, type_vocab_size=1,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.BertForMaskedLM(config)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 172_457_961
