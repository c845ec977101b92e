"""Pixels that a model sees, against timm's transforms and transformers' image processors, on oblong images of odd sizes.

They are the same to the bit, with the passes of Pillow in the order that it had when published weights were measured
(its newest version turns it round for tall images). transformers' default backend resizes tensors, with weights of 16
bits: there a value may differ by one of 255.
"""

import numpy as np
import pytest
import timm
import timm.data
import transformers
from PIL import Image
from transformers.models.auto import image_processing_auto

from tests.parity.oracle import assert_close, randomise_vit, read
from vit_jax.checkpoints.families import hf_siglip, timm_vit
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.published import Sidecar
from vit_jax.data.preprocess import Preprocess

SHAPES = [(61, 97), (97, 61), (83, 84), (45, 201), (203, 52), (31, 32), (64, 64), (77, 77)]
EXACT = 1e-3  # of a level: what float32 rounds
STATS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture(autouse=True)
def width_before_height(monkeypatch):
    """The two passes of Pillow in one order for all shapes."""
    resize = Image.Image.resize

    def older(self, size, resample=None, box=None, reducing_gap=None):
        assert box is None and reducing_gap is None
        return resize(resize(self, (size[0], self.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", older)


def photo(height, width, seed):
    """Noise with saturated areas, where filters overshoot."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return np.where(image > 200, 255, np.where(image < 60, 0, image)).astype(np.uint8)


def levels(ours, theirs, std):
    """The largest difference, in steps of 1/255 before normalisation."""
    return float(np.abs((ours - theirs) * np.float32(std)).max())


TIMM = [
    {"input_size": [3, 32, 32]},
    {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic", **STATS},
    {"input_size": [3, 32, 32], "crop_pct": 0.95, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
    {"input_size": [3, 33, 33], "crop_pct": 1.0, "interpolation": "lanczos"},
    {"input_size": [3, 33, 33], "crop_pct": 0.8, "interpolation": "nearest"},
    {"input_size": [3, 32, 32], "crop_pct": 0.8, "interpolation": "box"},
    {"input_size": [3, 32, 32], "crop_pct": 0.8, "interpolation": "hamming"},
    {"input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "squash"},
    {"input_size": [3, 33, 33], "crop_pct": 0.95, "crop_mode": "squash"},  # vit_medium_patch16_gap_384
    {"input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "border", **STATS},
    {"input_size": [3, 32, 32], "crop_pct": 0.8, "crop_mode": "border"},
    {"input_size": [3, 24, 40], "crop_pct": 0.9},
    {"input_size": [3, 40, 24], "crop_pct": 0.9, "crop_mode": "squash"},
    {"input_size": [3, 40, 25], "crop_pct": 0.7, "crop_mode": "border"},
    {"input_size": [3, 25, 40], "crop_pct": 1.0},
]


@pytest.mark.parametrize("config", TIMM, ids=str)
def test_timm(config):
    values = timm_parts.preprocess(Sidecar({"pretrained_cfg": config}), config["input_size"][1:], crop_pct=0.123)
    ours = Preprocess.from_json(values)
    assert Preprocess.from_json(ours.to_json()) == ours
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    for seed, shape in enumerate(SHAPES):
        image = photo(*shape, seed)
        expected = theirs(Image.fromarray(image)).numpy().transpose(1, 2, 0)
        assert levels(ours(image), expected, ours.std) < EXACT, shape
    # And back: what we write for timm makes the same pixels.
    info = {"model": {"kwargs": {"num_classes": 2}}, "preprocess": ours.to_json()}
    written = timm_parts.config("a", info, {}, {})["config.json"]
    again = timm_parts.preprocess(Sidecar(written), config["input_size"][1:], crop_pct=0.123)
    assert Preprocess.from_json(again) == ours


HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"height": 32, "width": 32}
# The class that transformers takes for the model, its processor, and [h, w] of the model.
PROCESSORS = [
    ("ViT", {"size": SQUARE}, [32, 32]),
    ("ViT", {"image_processor_type": "ViTFeatureExtractor", "size": 32, "resample": 2, **HALF}, [32, 32]),
    ("ViT", {"size": [24, 40], "resample": 3, "do_normalize": False}, [24, 40]),
    ("ViT", {"size": 32, "resample": 1, "do_rescale": False, "image_mean": [99] * 3, "image_std": [50] * 3}, [32, 32]),
    ("ViT", {"image_processor_type": "ViTImageProcessorFast", "size": 32, "rescale_factor": 1 / 127.5}, [32, 32]),
    ("ViT", {"size": {"shortest_edge": 37}, "do_center_crop": True, "crop_size": 32, **IMAGENET}, [32, 32]),
    ("DeiT", {"size": 37, "crop_size": 32, "do_center_crop": True, "resample": 3, **IMAGENET}, [32, 32]),
    ("DeiT", {"size": {"height": 40, "width": 36}, "crop_size": SQUARE}, [32, 32]),
    ("Bit", {"size": {"shortest_edge": 37}, "crop_size": SQUARE, **IMAGENET}, [32, 32]),
    ("Bit", {"size": 36, "crop_size": {"height": 24, "width": 35}}, [24, 35]),
    ("Bit", {"image_processor_type": "CLIPImageProcessor", "size": 33, "crop_size": 33}, [33, 33]),
    ("Siglip", {"size": SQUARE}, [32, 32]),
    ("Siglip", {"size": {"height": 34, "width": 34}, "resample": 3}, [28, 28]),  # patches of 14 leave six pixels out
]


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.parametrize(("kind", "config", "size"), PROCESSORS, ids=str)
def test_transformers(kind, config, size, backend):
    config = JsonObject(config)
    ours = Preprocess.from_json(hf_processor.preprocess(config, size, {}, kind, patch=14))
    assert not hf_processor.remarks(config, size, kind, patch=14)
    name = config.get("image_processor_type", f"{kind}ImageProcessor").replace("FeatureExtractor", "ImageProcessor")
    name = name.replace("Fast", "")
    theirs = getattr(transformers, name + ("Pil" if backend == "pil" else "")).from_dict(dict(config))
    for seed, shape in enumerate(SHAPES):
        image = photo(*shape, seed)
        [expected] = theirs(Image.fromarray(image), return_tensors="np")["pixel_values"]
        expected = expected.transpose(1, 2, 0)[: size[0], : size[1]]
        assert levels(ours(image), expected, ours.std) < (EXACT if backend == "pil" else 1.01), shape
    written = JsonObject(hf_processor.processor(ours.to_json()))
    again = Preprocess.from_json(hf_processor.preprocess(written, size, {}, kind, patch=14))
    np.testing.assert_array_equal(again.to_uint8(image), ours.to_uint8(image))
    np.testing.assert_allclose([again.mean, again.std], [ours.mean, ours.std], rtol=1e-5)


def test_our_defaults_of_processors_are_those_of_the_classes():
    for kind, (defaults, square) in hf_processor._CLASSES.items():
        theirs = getattr(transformers, f"{kind}ImageProcessor")
        assert theirs.default_to_square == square, kind
        for key in ("size", "crop_size", "do_center_crop", "resample", "image_mean", "image_std", "do_pad"):
            assert (getattr(theirs, key, None) or None) == (defaults.get(key) or None), (kind, key)
    for model, kind in {"vit": "ViT", "deit": "DeiT", "dinov2": "Bit", "bit": "Bit", "siglip": "Siglip"}.items():
        assert image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[model]["pil"] == f"{kind}ImageProcessorPil"


def test_what_a_processor_does_otherwise_is_said():
    # facebook/dinov2-base: the processor crops 224 pixels although the positions are for 518.
    config = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, **IMAGENET, "resample": 3}
    config = JsonObject(config)
    [remark] = hf_processor.remarks(config, [518, 518], "Bit", 14)
    assert "image_size=224" in remark
    resized = Preprocess.from_json(hf_processor.preprocess(config, [518, 518], {}, "Bit", 14)).resized(224)
    expected = Preprocess.from_json(hf_processor.preprocess(config, [224, 224], {}, "Bit", 14))
    assert resized == expected
    for config, word in (({"size": {"shortest_edge": 32}}, "does not crop"), ({"do_resize": False}, "leaves the size")):
        [remark] = hf_processor.remarks(JsonObject(config), [32, 32], "ViT", 14)
        assert word in remark


def test_patches_that_do_not_divide_the_image():
    """As siglip-so400m-patch14-384: resized to 384, of which the patch embedding leaves out the last six."""
    image = photo(61, 97, 0)
    small = {"image_size": 34, "patch_size": 14, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1}
    model = randomise_vit(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**small)))
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    processor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 34, "width": 34}}
    ours = read(hf_siglip, tensors, Sidecar(model.config.to_dict(), processor))
    x = transformers.SiglipImageProcessorPil.from_dict(dict(processor))(Image.fromarray(image), return_tensors="pt")
    expected = model(**x).last_hidden_state.detach().numpy()
    assert ours.published.preprocess["trim"] == [6, 6] and not any("makes" in s for s in ours.published.remarks)
    pixels = Preprocess.from_json(ours.published.preprocess)
    assert_close(ours.outputs(pixels(image)[None])["tokens"], expected, "SigLIP, 34 pixels in patches of 14")

    arguments = {"img_size": 34, "patch_size": 14, "embed_dim": 64, "depth": 1, "num_heads": 2}
    model = randomise_vit(timm.create_model("vit_base_patch16_siglip_224", **arguments))
    settings = {"input_size": [3, 34, 34], "crop_pct": 0.9, "interpolation": "bicubic"}
    config = {"architecture": "vit_base_patch16_siglip_224", "model_args": arguments, "pretrained_cfg": settings}
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    ours = read(timm_vit, tensors, Sidecar(config))
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=settings))
    expected = model.forward_features(transform(Image.fromarray(image))[None]).detach().numpy()
    pixels = Preprocess.from_json(ours.published.preprocess)
    assert_close(ours.outputs(pixels(image)[None])["tokens"], expected, "timm, 34 pixels in patches of 14")
