"""Modules by their names in a config."""

import importlib
from pathlib import Path

import pytest

from vit_jax import UserError
from vit_jax.naming import _ROOMS, build_model, named_module


@pytest.mark.parametrize("kind", _ROOMS)
def test_what_is_offered_can_be_built(kind):
    """An error names every module that has `build`, and no helper that stands beside them."""
    folder = Path(importlib.import_module(_ROOMS[kind]).__file__).parent
    with pytest.raises(UserError) as refused:
        named_module(kind, "qqqqqqqqqqqq")
    offered = refused.value.what_to_do.removeprefix("Known: ").split(", ")
    assert offered and all(callable(named_module(kind, name).build) for name in offered)
    for helper in {p.stem for p in folder.glob("[!_]*.py")} - set(offered):
        assert not hasattr(importlib.import_module(f"{_ROOMS[kind]}.{helper}"), "build")


def test_a_helper_is_not_offered():
    with pytest.raises(UserError, match="'vit_variants' is not a model: it has no build function") as refused:
        named_module("model", "vit_variants")
    assert "vit_variants" not in refused.value.what_to_do
    with pytest.raises(UserError, match="There is no model named 'vit_variant'") as refused:
        named_module("model", "vit_variant")
    assert "vit_variants" not in refused.value.what_to_do


def test_what_others_call_it_leads_to_its_name_here():
    for name, here in (("imagefolder", "folder"), ("ImageFolder", "folder"), ("huggingface", "hf")):
        with pytest.raises(UserError, match=f"There is no source named '{name}'. Did you mean '{here}'?"):
            named_module("source", name)


def test_what_the_code_gives_a_config_must_not():
    """Not even where the function hands keywords on, so that the key is among those that it takes."""
    with pytest.raises(UserError, match=r"config\.model\.num_classes"):
        build_model({"name": "vit", "variant": "mu/2", "num_classes": 3}, num_classes=2)
