"""SigLIP 2 of any aspect ratio, of transformers: two shapes in one batch, with every parameter drawn anew."""

import jax
import numpy as np
import pytest
import torch
import transformers
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

from tests.parity.oracle import TOLERANCE
from vit_jax.checkpoints.source import flat_shapes, nested
from vit_jax.data.fields.naflex import size_of_patches
from vit_jax.models import siglip
from vit_jax.nn.init_shapes import init_shapes

WIDTH, HEADS, PATCH, GRID, LENGTH = 32, 4, 4, 5, 24
SIZE = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": HEADS}


def redrawn():
    """A tiny model of theirs; probes and biases too are far from what they start with."""
    config = transformers.Siglip2Config(
        text_config={**SIZE, "vocab_size": 50, "max_position_embeddings": 7, "projection_size": WIDTH},
        vision_config={**SIZE, "patch_size": PATCH, "num_patches": GRID**2},
    )
    model = transformers.Siglip2Model(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (1.0 if norm else 0.0))
    return model


def ours_of(state):
    """Their tensors by our names."""
    left = {name: tensor.numpy() for name, tensor in state.items() if not name.endswith("position_ids")}
    found = {}

    def dense(name, theirs, split=None):
        kernel, bias = left.pop(f"{theirs}.weight").T, left.pop(f"{theirs}.bias")
        if split == "out":
            kernel, bias = bias_free(kernel, True), bias
        elif split == "in":
            kernel, bias = bias_free(kernel, False), bias.reshape(HEADS, -1)
        found[f"{name}/kernel"], found[f"{name}/bias"] = kernel, bias

    def bias_free(kernel, out):
        return kernel.reshape(HEADS, -1, WIDTH) if out else kernel.reshape(WIDTH, HEADS, -1)

    def norm(name, theirs):
        found[f"{name}/scale"], found[f"{name}/bias"] = left.pop(f"{theirs}.weight"), left.pop(f"{theirs}.bias")

    for side, trunk in (("vision_model", "encoder"), ("text_model", "text")):
        for i in range(2):
            theirs, block = f"{side}.encoder.layers.{i}", f"{trunk}/block_{i:02d}"
            for part, name in (("q", "query"), ("k", "key"), ("v", "value")):
                dense(f"{block}/attention/{name}", f"{theirs}.self_attn.{part}_proj", "in")
            dense(f"{block}/attention/out", f"{theirs}.self_attn.out_proj", "out")
            dense(f"{block}/mlp/fc1", f"{theirs}.mlp.fc1")
            dense(f"{block}/mlp/fc2", f"{theirs}.mlp.fc2")
            norm(f"{block}/norm1", f"{theirs}.layer_norm1")
            norm(f"{block}/norm2", f"{theirs}.layer_norm2")
    norm("encoder/norm", "vision_model.post_layernorm")
    norm("text/norm", "text_model.final_layer_norm")
    found["encoder/embedding/kernel"] = left.pop("vision_model.embeddings.patch_embedding.weight").T.reshape(
        PATCH, PATCH, 3, WIDTH
    )
    found["encoder/embedding/bias"] = left.pop("vision_model.embeddings.patch_embedding.bias")
    positions = left.pop("vision_model.embeddings.position_embedding.weight")
    found["encoder/pos_embedding"] = positions.reshape(GRID, GRID, WIDTH)
    found["text/embedding"] = left.pop("text_model.embeddings.token_embedding.weight")
    found["text/pos_embedding"] = left.pop("text_model.embeddings.position_embedding.weight")
    dense("text_projection", "text_model.head")
    head = "vision_model.head"
    found["pool/probe"] = left.pop(f"{head}.probe")
    weights = np.split(left.pop(f"{head}.attention.in_proj_weight"), 3)
    biases = np.split(left.pop(f"{head}.attention.in_proj_bias"), 3)
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        found[f"pool/attention/{name}/kernel"] = weight.T.reshape(WIDTH, HEADS, -1)
        found[f"pool/attention/{name}/bias"] = bias.reshape(HEADS, -1)
    dense("pool/attention/out", f"{head}.attention.out_proj", "out")
    norm("pool/norm", f"{head}.layernorm")
    dense("pool/mlp/fc1", f"{head}.mlp.fc1")
    dense("pool/mlp/fc2", f"{head}.mlp.fc2")
    found["logit_scale"], found["logit_bias"] = (left.pop(name).reshape(()) for name in ("logit_scale", "logit_bias"))
    assert not left  # nothing of theirs is left unread
    return found


def test_two_shapes_in_one_batch():
    theirs = redrawn()
    params = ours_of(theirs.state_dict())
    size = {"width": WIDTH, "depth": 2, "num_heads": HEADS, "mlp_dim": 48}
    ours = siglip.build(
        variant=f"B/{PATCH}", naflex=True, grid=GRID, vocab_size=50, **size, text={**size, "max_length": 7}
    )
    shapes = init_shapes(ours.init, jax.random.key(0), *ours.example_inputs(None))["params"]
    assert flat_shapes(shapes) == {name: value.shape for name, value in params.items()}

    rng = np.random.default_rng(0)
    patches = rng.normal(size=(3, LENGTH, 3 * PATCH**2)).astype(np.float32)
    grids = np.array([[4, 6], [3, 2], [7, 3]], np.int32)  # as large as it may be, smaller, higher than the positions
    ids = rng.integers(0, 50, (3, 7))
    with torch.no_grad():
        found = theirs(
            input_ids=torch.from_numpy(ids),
            pixel_values=torch.from_numpy(patches),
            pixel_attention_mask=torch.from_numpy((np.arange(LENGTH) < grids.prod(1)[:, None]).astype(np.int32)),
            spatial_shapes=torch.from_numpy(grids.astype(np.int64)),
        )

    @jax.jit
    def outputs(params):
        made = ours.apply({"params": params}, patches, ids, grids)
        logits = ours.apply({"params": params}, made["image_embedding"], made["text_embedding"], method="similarity")
        return made, logits

    made, logits = outputs(nested(params))
    pairs = {
        "image_embedding": (made["image_embedding"], found.image_embeds),
        "text_embedding": (made["text_embedding"], found.text_embeds),
        "logits": (logits, found.logits_per_image),
        "features": (made["features"], found.vision_model_output.pooler_output),
    }
    for name, (mine, reference) in pairs.items():
        reference = reference.numpy()
        assert np.abs(mine - reference).max() < TOLERANCE * max(1, np.abs(reference).max()), name
    for i, (rows, columns) in enumerate(grids):
        tokens = found.vision_model_output.last_hidden_state[i, : rows * columns].numpy()
        assert np.abs(made["tokens"][i, : rows * columns] - tokens).max() < TOLERANCE * np.abs(tokens).max()


@pytest.mark.parametrize("most", [256, 100])
def test_sizes_in_patches(most):
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 4000, (200, 2)).tolist():
        expected = get_image_size_for_max_num_patches(height, width, 16, most)
        assert tuple(16 * side for side in size_of_patches(height, width, 16, most)) == tuple(expected)
