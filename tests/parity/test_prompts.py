"""CoOp and CoCoOp against open_clip's towers, whose text tower is fed vectors as the authors' code feeds CLIP's."""

import functools
import json

import jax
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from tests.parity.oracle import TOLERANCE, error, to_torch
from vit_jax.checkpoints.source import open_source
from vit_jax.data.tokenizers import bytes as utf8
from vit_jax.tasks import DataInfo, cocoop, coop

NAMES = ("red", "light_blue", "green tea", "ox")
LENGTH, M = 28, 5
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "mlp_ratio": 1.5},
    "text_cfg": {"context_length": LENGTH, "vocab_size": 259, "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 2.0},
    "quick_gelu": True,
}
IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Their model with every parameter drawn anew, and its section and parameters as ours."""
    torch.manual_seed(3)
    model = open_clip.CLIP(**{k: dict(v) if isinstance(v, dict) else v for k, v in CONFIG.items()}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
        model.logit_scale.fill_(3.0)
    folder = tmp_path_factory.mktemp("model")
    described = {"model_cfg": CONFIG, "preprocess_cfg": {"size": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    opened = open_source(folder)
    section = {"name": opened.metadata["model"]["name"], **opened.metadata["model"]["kwargs"]}
    own = {name: value for name, value in section.items() if name not in ("vocab_size", "end_id")}
    return model, own, opened.read()[0]


def embedded(model, position, name, context):
    """A prompt as vectors, and the place of its end: put together of its parts, one after the other."""
    tokenizer = utf8.build()
    words = name.replace("_", " ")

    def of(ids):
        return model.token_embedding(torch.tensor(ids, dtype=torch.long))

    name = of(tokenizer.encode(words if position == "front" else f" {words}"))
    parts = {
        "end": [context, name],
        "middle": [context[: M // 2], name, context[M // 2 :]],
        "front": [name, context],
    }[position]
    whole = torch.cat([of([tokenizer.bos_id]), *parts, of([*tokenizer.encode("."), tokenizer.eos_id])])
    padding = of([tokenizer.pad_id] * (LENGTH - len(whole)))
    return torch.cat([whole, padding]), len(whole) - 1


def their_logits(model, position, contexts):
    """[B, K], for contexts [B, K, M, D]."""
    rows = []
    images = functional.normalize(model.encode_image(to_torch(IMAGES)), dim=-1)
    for image, of_classes in zip(images, contexts, strict=True):
        texts = []
        for name, context in zip(NAMES, of_classes, strict=True):
            x, end = embedded(model, position, name, context)
            x = model.transformer((x + model.positional_embedding)[None], attn_mask=model.attn_mask)
            texts.append(functional.normalize(model.ln_final(x)[0, end] @ model.text_projection, dim=-1))
        rows.append(model.logit_scale.exp() * image @ torch.stack(texts).T)
    return torch.stack(rows).detach().numpy()


def our_logits(built, params, prompt):
    outputs = jax.jit(functools.partial(built.outputs, names=frozenset(["logits"]), rng=None))
    return outputs({"params": {**params, "prompt": prompt}, "model_state": {}}, {"image": IMAGES})["logits"]


@pytest.mark.parametrize(("context", "position"), [("unified", "end"), ("unified", "front"), ("csc", "middle")])
def test_coop(towers, context, position):
    model, section, params = towers
    built = coop.build(
        model=section, data=DataInfo((32, 32), NAMES), tokenizer="bytes", context=context, context_length=M,
        position=position,
    )  # fmt: skip
    learned = np.random.default_rng(1).normal(0, 0.5, built.context_shape).astype(np.float32)
    contexts = torch.from_numpy(np.broadcast_to(learned, (len(IMAGES), len(NAMES), M, 24)).copy())
    expected = their_logits(model, position, contexts)
    assert np.ptp(expected, axis=1).min() > 0.05
    assert error(our_logits(built, params, {"context": learned}), expected) < TOLERANCE


def test_cocoop(towers):
    model, section, params = towers
    built = cocoop.build(model=section, data=DataInfo((32, 32), NAMES), tokenizer="bytes", context_length=M, words=None)
    torch.manual_seed(5)
    net = torch.nn.Sequential(torch.nn.Linear(32, 2), torch.nn.ReLU(), torch.nn.Linear(2, 24))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 1)
    learned = np.random.default_rng(1).normal(0, 0.5, (M, 24)).astype(np.float32)
    shifts = net(functional.normalize(model.encode_image(to_torch(IMAGES)), dim=-1))
    assert shifts.std(0).max() > 0.01
    contexts = torch.from_numpy(learned) + shifts[:, None]
    expected = their_logits(model, "end", contexts[:, None].expand(-1, len(NAMES), -1, -1))

    def layer(linear):
        return {"kernel": linear.weight.detach().numpy().T, "bias": linear.bias.detach().numpy()}

    prompt = {"context": learned, "meta_net": {"fc1": layer(net[0]), "fc2": layer(net[2])}}
    assert error(our_logits(built, params, prompt), expected) < TOLERANCE
