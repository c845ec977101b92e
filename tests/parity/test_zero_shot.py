"""Zero-shot classification equals open_clip's own: its tokenizer, its templates, its ensembling, its logits."""

import json

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

import vit_jax
from tests.parity.oracle import TOLERANCE, to_torch
from vit_jax.data.prompts import set_classes, templates_of

CONFIG = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 1},
}
CLASSES = ["crane bird", "construction crane", "kite (bird of prey)", "a  Nail", "café", "metal nail"]


def test_prompts_classes_and_logits_are_open_clips(tmp_path):
    torch.manual_seed(3)
    model = open_clip.CLIP(**CONFIG, output_dict=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
        model.logit_scale.fill_(3.0)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"size": 32}}))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    images = np.random.default_rng(0).normal(size=(5, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        weights = open_clip.build_zero_shot_classifier(
            model, open_clip.SimpleTokenizer(), CLASSES, open_clip.SIMPLE_IMAGENET_TEMPLATES
        )
        features = model.encode_image(to_torch(images), normalize=True)
        theirs = (model.logit_scale.exp() * features @ weights).numpy()
    ours = vit_jax.load(tmp_path).zero_shot(CLASSES, "imagenet_simple")
    found = np.asarray(ours.logits(images))
    assert np.abs(found - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert np.abs(found - theirs[:, ::-1]).max() > 0.1  # the classes differ


def test_the_packaged_prompts_are_open_clips():
    """Templates are functions there, ours texts with {}."""
    for name, said in (
        ("imagenet", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("imagenet_simple", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert [template.replace("{}", "word") for template in templates_of(name)] == [make("word") for make in said]
    assert [one for (one,) in set_classes("imagenet")] == list(open_clip.IMAGENET_CLASSNAMES)
