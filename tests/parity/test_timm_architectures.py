"""What timm's own definitions of its architectures say, against what their names and tensors tell us."""

import re

import pytest
import torch
from timm.models import deit, list_models, model_entrypoint, vision_transformer

from vit_jax.checkpoints.families import timm_vit
from vit_jax.checkpoints.parts import vit as vit_parts
from vit_jax.checkpoints.published import Sidecar
from vit_jax.errors import UserError
from vit_jax.models import vit
from vit_jax.nn.parameter_count import parameter_count

# Norms before the first block, RMSNorm, parallel or post-norm blocks, other attentions, and positions of registers.
NOT_READ = re.compile(
    r"clip|aimv2|beit3|_xp_|_rpn_|18x2|radio|_dlittle_|_dpwee_|_dwee_|_pwee_|intern300m|so150m|test_vit|sapiens|eva_"
)


def definitions(monkeypatch):
    """Architecture -> arguments of the module that timm would build."""
    found = {}

    def capture(name, pretrained=False, distilled=False, **arguments):
        found[name] = (
            deit.VisionTransformerDistilled if distilled else vision_transformer.VisionTransformer,
            arguments,
        )

    monkeypatch.setattr(vision_transformer, "_create_vision_transformer", capture)
    monkeypatch.setattr(deit, "_create_deit", capture)
    for module in ("vision_transformer", "deit"):
        for name in list_models(module=module):
            model_entrypoint(name)()
    return found


def test_every_architecture_is_read_as_timm_defines_it_or_refused(monkeypatch):
    read, refused = [], []
    for name, (kind, arguments) in definitions(monkeypatch).items():
        image_size = arguments.get("img_size", 518 if "patch14" in name and "dino" in name else 16 * 14)
        with torch.device("meta"):
            model = kind(**{**arguments, "depth": 1, "img_size": image_size})
        block = {n.removeprefix("blocks.0."): tuple(v.shape) for n, v in model.state_dict().items() if "blocks.0." in n}
        tensors = {n: tuple(v.shape) for n, v in model.state_dict().items() if "blocks.0." not in n}
        depth = arguments.get("depth", 12)
        tensors |= {f"blocks.{i}.{n}": shape for i in range(depth) for n, shape in block.items()}
        try:
            published = timm_vit.describe(tensors, Sidecar({"architecture": name, "global_pool": model.global_pool}))
            assert published is not None
            kwargs = published.kwargs
            timm_vit.name_map(kwargs, published.layout).check(tensors, name)
        except (UserError, AssertionError):
            refused.append(name)
            continue
        read.append(name)
        size, patch = vit_parts.size_of(kwargs)
        first = model.blocks[0]
        assert (size.width, size.depth) == (model.embed_dim, depth), name
        assert size.num_heads == first.attn.num_heads, name
        assert (patch, patch) == model.patch_embed.patch_size, name
        activation = type(first.mlp.act).__name__
        expected = ("gelu", "exact") if activation == "GELU" and getattr(first.mlp.act, "approximate", "none") == "none" else ("gelu", "tanh")  # fmt: skip
        expected = ("swiglu", "exact") if activation == "SiLU" else expected
        assert (kwargs.get("mlp", "gelu"), kwargs["gelu"]) == expected, (name, activation)
        assert first.norm1.eps == kwargs["layer_norm_epsilon"] == 1e-6, name
        assert type(first) is vision_transformer.Block and type(first.attn) is vision_transformer.Attention, name
        assert kwargs.get("num_registers", 0) == model.num_reg_tokens, name
        assert kwargs["class_token"] == model.has_class_token, name
        assert kwargs["class_token_posemb"] == (model.has_class_token and not model.no_embed_class), name
        pool = {"token": "token", "avg": "mean", "map": "map"}[model.global_pool]
        assert kwargs["pooling"] == ("distilled" if kind is deit.VisionTransformerDistilled else pool), name
    assert all(NOT_READ.search(name) for name in refused), [n for n in refused if not NOT_READ.search(n)]
    assert len(read) > 80 and not [name for name in read if NOT_READ.search(name)]


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_rpn_224", "vit_base_patch16_clip_quickgelu_224", "samvit_base_patch16"]
)
def test_look_alikes_are_refused(name):
    tensors = {
        "patch_embed.proj.weight": (64, 3, 16, 16),
        "pos_embed": (1, 197, 64),
        "blocks.0.attn.qkv.weight": (192, 64),
        "blocks.0.mlp.fc2.weight": (64, 256),
    }
    try:
        assert timm_vit.describe(tensors, Sidecar({"architecture": name})) is None
    except UserError as error:
        assert name in str(error)


@pytest.mark.parametrize(
    "name",
    ["deit_base_distilled_patch16_224", "deit3_huge_patch14_224", "vit_base_patch14_reg4_dinov2",
     "vit_giant_patch14_dinov2", "vit_so400m_patch14_siglip_224", "vit_medium_patch16_gap_256"],
)  # fmt: skip
def test_parameter_counts(name):
    """Full widths, but two blocks of all the equal ones."""
    with torch.device("meta"):
        model = model_entrypoint(name)(num_classes=10, depth=2)
    tensors = {n: tuple(v.shape) for n, v in model.state_dict().items()}
    published = timm_vit.describe(
        tensors, Sidecar({"architecture": name, "model_args": {"depth": 2, "global_pool": model.global_pool}})
    )
    count = parameter_count(vit.build(**published.kwargs), tuple(published.preprocess["image_size"]))
    assert count == sum(p.numel() for p in model.parameters())
