"""What a student is told, against torch in float64; and DeiT's two heads, each against timm's and transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
import transformers
from timm.models import save_for_hf

from tests.parity.oracle import TOLERANCE, error, images, randomise_vit, read, read_folder, to_torch
from vit_jax.checkpoints.families import hf_vit, timm_vit
from vit_jax.nn.distillation_loss import distillation_losses

SIZE = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(("form", "temperature"), [("soft", 1.0), ("soft", 3.0), ("hard", 1.0)])
def test_the_loss_of_an_answer_and_its_gradient(form, temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 7)) * 3
    of, to = torch.tensor(student, requires_grad=True), torch.tensor(teacher)
    if form == "hard":
        expected = torch.nn.functional.cross_entropy(of, to.argmax(1), reduction="none")
    else:
        log_p = (x.div(temperature).log_softmax(1) for x in (of, to))
        expected = temperature**2 * torch.nn.functional.kl_div(*log_p, reduction="none", log_target=True).sum(1)
    expected.sum().backward()

    def total(student, teacher):
        losses = distillation_losses(student, teacher, form, temperature)
        return losses.sum(), losses

    gradients, losses = jax.jit(jax.grad(total, (0, 1), has_aux=True))(jnp.float32(student), jnp.float32(teacher))
    np.testing.assert_allclose(losses, expected.detach(), rtol=2e-6)
    np.testing.assert_allclose(gradients[0], of.grad, atol=2e-6)
    assert not gradients[1].any()


def test_each_head_is_timm_s(tmp_path):
    theirs = timm.create_model(
        "deit_base_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=5
    )
    save_for_hf(randomise_vit(theirs), tmp_path, safe_serialization=True)
    theirs.set_distilled_training(True)
    x = images(32, 32)
    with torch.no_grad():
        each = theirs.train()(to_torch(x))  # nothing in it drops
    found = read(timm_vit, *read_folder(tmp_path)).outputs(x)["head_logits"]
    assert max(error(found[:, i], logits) for i, logits in enumerate(each)) < TOLERANCE
    assert np.abs(found[:, 0] - found[:, 1]).max() > 0.1


def test_each_head_is_transformers_s(tmp_path):
    config = transformers.DeiTConfig(**SIZE, intermediate_size=96, num_labels=3)
    theirs = randomise_vit(transformers.DeiTForImageClassificationWithTeacher(config))
    theirs.save_pretrained(tmp_path)
    x = images(32, 32)
    with torch.no_grad():
        each = theirs(to_torch(x))
    found = read(hf_vit, *read_folder(tmp_path)).outputs(x)
    for i, logits in enumerate((each.cls_logits, each.distillation_logits)):
        assert error(found["head_logits"][:, i], logits) < TOLERANCE
    assert error(found["logits"], each.logits) < TOLERANCE


def test_the_sizes_are_timm_s():
    """Of all its ViTs see `test_timm_architectures`; these are the figures of DeiT's table."""
    for name, count in {"tiny": 5_910_800, "small": 22_436_432, "base": 87_338_192}.items():
        with torch.device("meta"):
            theirs = timm.create_model(f"deit_{name}_distilled_patch16_224")
        assert sum(p.numel() for p in theirs.parameters()) == count
