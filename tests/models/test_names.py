"""Models by name: the list is what the modules of models say, and every name builds."""

import subprocess
import sys

import pytest

from vit_jax import UserError, list_models
from vit_jax.models.names import module_and_variant
from vit_jax.naming import named_module


def test_every_name_builds():
    names = list_models()
    assert len(names) == len(set(names)) > 50
    for name in names:
        module, variant = module_and_variant(name)
        model = named_module("model", module).build(variant=variant, num_classes=3)
        assert model.num_classes == 3, name


def test_patterns():
    assert list_models("SWIN:?") == ["swin:T", "swin:S", "swin:B", "swin:L"]
    assert set(list_models("vit*")) == {*list_models("vit:*"), *list_models("vitdet:*")}
    assert {"vit:B/16", "mixer:B/16", "hybrid:R50+B/16"} <= set(list_models("*B/16"))
    assert list_models("no such model") == []


def test_a_size_alone_is_a_vit_s():
    assert module_and_variant("B/16") == module_and_variant("vit:B/16") == ("vit", "B/16")
    assert module_and_variant("efficientvit:B1") == ("efficientvit", "B1")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vit-B16", "There is no model named 'vit-B16'. Did you mean 'vit:B/16'?"),
        ("R50x1", "Did you mean 'bit:R50x1'?"),
        ("swim:T", "There is no model named 'swim:T'. Did you mean 'swin:T'?"),
        ("../vit:B/16", "There is no model named '../vit:B/16'"),
        ("bert:base", "'bert' is not made of a name alone. Use vit_jax.models.bert.build, or a config"),
    ],
)
def test_names_that_are_not_there(name, sentence):
    with pytest.raises(UserError) as error:
        module_and_variant(name)
    assert sentence in str(error.value)


@pytest.mark.long
def test_models_need_no_package_for_data_or_plots():
    """All architectures, in a process that has none of them."""
    program = """
import importlib, pkgutil, sys
absent = {"array_record", "cv2", "grain", "matplotlib", "ml_collections", "orbax", "scipy", "sentencepiece",
          "simplejpeg", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets", "torch", "tqdm"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"this process has no {name}")
sys.meta_path.insert(0, Absent())
import vit_jax.models
for module in pkgutil.iter_modules(vit_jax.models.__path__):
    importlib.import_module(f"vit_jax.models.{module.name}")
from vit_jax import ViT, list_models
print(len(list_models()), ViT.__name__)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(len(list_models())), "ViT"]
