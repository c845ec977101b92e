"""LoRA adapters in the files of PEFT, seen as the weight file that they were trained beside with their products in it.

`adapter_config.json` says r, alpha and the base, `adapter_model.safetensors` has A and B of each module: W of the file
below stands for W + (alpha / r) B A, or alpha / sqrt(r) with rank-stabilised scaling (arXiv:2312.03732). Names and
layout of both files are PyTorch's, so that whatever reads the base reads the sum.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vit_jax.checkpoints.config_keys import PEFT_LORA
from vit_jax.checkpoints.json_file import JsonObject, read_json, shown
from vit_jax.checkpoints.name_map import NDArray
from vit_jax.checkpoints.parts.hf import former_names
from vit_jax.checkpoints.safetensors import SafetensorsFile
from vit_jax.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_MODEL = "base_model.model."
_LAYER = ".base_layer"  # what newer versions of PEFT put between a module's name and its own bias
_A, _B = ".lora_A.weight", ".lora_B.weight"
_HEAD, _POOLER = "classifier.weight", "pooler."
_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # that leave the base as it is
_TOWERS = {"VisionModel": "vision_model.", "TextModel": "text_model."}  # by the end of a tower's class
_ANOTHER = "Name the checkpoint that it was trained beside with base= (--base)"


class TensorFile(Protocol):
    """Tensors by name, of which `shapes` is known before one is read."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]

    def __getitem__(self, name: str) -> NDArray: ...


class Adapter:
    """What lies beside an `adapter_config.json`, checked in itself.

    Args:
        config: the path of that file.

    Raises:
        UserError: it is no plain LoRA, its files are damaged, or do not belong together.
    """

    def __init__(self, config: Path):
        self.path = config
        self.config = read_json(config)
        kind = self.config.text("peft_type")
        if kind != "LORA":
            raise self.config.error(
                "peft_type", f"is {shown(kind)}; adapters of the kind 'LORA' alone are read", "Merge it in PEFT"
            )
        PEFT_LORA.check(self.config)
        start = self.config.get("init_lora_weights", True)
        if start not in _STARTS:
            raise self.config.error(
                "init_lora_weights",
                f"is {shown(start)}, which changes the base too",
                "Merge it in PEFT and save it whole",
            )
        self._alphas = _by_module(self.config, "alpha_pattern")
        self._ranks = _by_module(self.config, "rank_pattern")
        self._file = SafetensorsFile(config.with_name(WEIGHTS))
        self.modules: dict[str, float] = {}  # what B A of each is multiplied by
        self.whole: dict[str, str] = {}  # of tensors that replace those of the base the name here
        for name in self._file.shapes:
            self._take(name)
        if not self.modules:
            raise UserError(f"{self._file.path} adapts no module", "Fetch it again")

    def base(self) -> str:
        """Where the base lies: a path that is there, or an address on the hub."""
        said = self.config.text("base_model_name_or_path")
        if not said:
            raise UserError(f"{self.path} does not say what it was trained beside", _ANOTHER)
        if not Path(said).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", said):
            revision = self.config.text("revision")
            return f"hf://{said}" + (f"@{quote(revision, safe='')}" if revision else "")
        return said

    def saves(self, name: str) -> bool:
        """Whether the tensor is of a module that was trained as a whole, such as a head."""
        parts = name.split(".")[:-1]
        wanted = [saved.split(".") for saved in self.config.texts("modules_to_save") or ()]
        return any(parts[i : i + len(saved)] == saved for saved in wanted for i in range(len(parts)))

    @property
    def tower(self) -> str:
        """What stands before the names of a tower that was trained alone, 'vision_model.', in a file of both; '' for
        another model. In transformers 5 a tower does not know that it may be one of two."""
        of = self.config.object("auto_mapping").text("base_model_class", "")
        return next((start for kind, start in _TOWERS.items() if kind in of), "")

    def factors(self, module: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of A [r, inputs, ...] and B [outputs, r, ...]."""
        return self._file.shapes[_MODEL + module + _A], self._file.shapes[_MODEL + module + _B]

    def product(self, module: str) -> Float[np.ndarray, "outputs inputs"]:
        """What is added to a module's weight, with all of its inputs in one axis."""
        a, b = (self._file[_MODEL + module + end].astype(np.float32) for end in (_A, _B))
        return np.float32(self.modules[module]) * (b.reshape(len(b), -1) @ a.reshape(len(a), -1))

    def tensor(self, name: str) -> NDArray:
        """One that replaces the base's."""
        return self._file[self.whole[name]]

    def _take(self, name: str) -> None:
        """One tensor of the file."""
        known = name.startswith(_MODEL) and self._file[name].size > 0
        if not known or not jnp.issubdtype(self._file[name].dtype, jnp.floating):
            raise UserError(f"{self._file.path} has a tensor {shown(name)} that is none of LoRA's", "Fetch it again")
        inner = name.removeprefix(_MODEL)
        if inner.endswith((_A, _B)):
            module = inner.removesuffix(_A).removesuffix(_B)
            if not {_MODEL + module + _A, _MODEL + module + _B} <= self._file.shapes.keys():
                raise UserError(f"{self._file.path} has of {shown(module)} one factor alone", "Fetch it again")
            self.modules[module] = self._scale(module)
        elif ".lora_" in inner:
            raise UserError(
                f"{self._file.path} has a tensor {shown(name)}; LoRA of linear layers and convolutions is read",
                "Merge it in PEFT (merge_and_unload) and save it whole",
            )
        else:
            self.whole[inner.replace(_LAYER, "")] = name

    def _scale(self, module: str) -> float:
        a, b = self.factors(module)
        rank = _of(self._ranks, module, self.config.integer("r", 8, at_least=1))
        if min(len(a), len(b)) < 2 or not a[0] == b[1] == rank or math.prod(b[2:]) != 1:
            raise UserError(
                f"{self._file.path} has factors of {shown(module)} of shape {list(a)} and {list(b)}, and {CONFIG} says "
                f"rank {rank:g}",
                "Take both files of one adapter",
            )
        alpha = _of(self._alphas, module, self.config.number("lora_alpha", 8.0))
        return alpha / (math.sqrt(rank) if self.config.boolean("use_rslora", False) else rank)


class AdaptedFile:
    """The tensors of a base with an adapter in them; `shapes` is known at once, a sum is taken when it is asked for.

    Args:
        address: of the base on the hub, with its commit; None for one that lies elsewhere.

    Raises:
        UserError: the adapter is of a model with other modules, or of another width.
    """

    def __init__(self, adapter: Adapter, base: TensorFile, address: str | None = None):
        self.path, self.metadata, self.base_address = adapter.path, {}, address
        self._adapter, self._base = adapter, base
        self._added: dict[str, str] = {}  # from names of the base to modules of the adapter
        for module in adapter.modules:
            name = self._place(f"{module}.weight")
            if name is None:
                raise UserError(f"{adapter.path} adapts {shown(module)}, which {base.path} does not have", _ANOTHER)
            if name in self._added:
                raise UserError(f"{adapter.path} adapts {shown(module)} under two names", "Fetch it again")
            (a, b), shape = adapter.factors(module), base.shapes[name]
            if (b[0], math.prod(a[1:])) != (shape[0], math.prod(shape[1:])):
                raise UserError(
                    f"{adapter.path} adapts {shown(module)} with {math.prod(a[1:])} inputs and {b[0]} outputs, and in "
                    f"{base.path} it has the shape {list(shape)}",
                    _ANOTHER,
                )
            self._added[name] = module
        self._replaced = {self._replaces(name): name for name in adapter.whole}
        own = {place: adapter.tensor(name).shape for place, name in self._replaced.items()}
        # A model with a classifier has no pooler in transformers, and a base that had none yet may have one.
        dropped = f".{_POOLER}" if _HEAD in own else None
        kept = {n: s for n, s in base.shapes.items() if dropped is None or dropped not in f".{n}"}
        self.shapes = {**kept, **own}

    def __getitem__(self, name: str) -> NDArray:
        if name in self._replaced:
            return self._adapter.tensor(self._replaced[name])
        tensor = self._base[name]
        if name not in self._added or not jnp.issubdtype(tensor.dtype, jnp.floating):
            return tensor
        return tensor.astype(np.float32) + self._adapter.product(self._added[name]).reshape(tensor.shape)

    def _replaces(self, name: str) -> str:
        place = self._place(name)
        same = place is not None and self._base.shapes[place] == self._adapter.tensor(name).shape
        if not same and not self._adapter.saves(name):
            raise UserError(
                f"{self._adapter.path} has {shown(name)} of shape {list(self._adapter.tensor(name).shape)}, which "
                f"{self._base.path} does not have",
                _ANOTHER,
            )
        return name if place is None else place

    def _place(self, name: str) -> str | None:
        """A tensor's name in the base: there it may lack what stands before it, or have more, or the names of old."""
        for one in (name, former_names(name)):
            if one in self._base.shapes:
                return one
            longer = [n for n in self._base.shapes if n.endswith(f".{one}")]
            longer = [n for n in longer if f".{self._adapter.tower}{one}" in f".{n}"] if len(longer) > 1 else longer
            if len(longer) > 1:
                raise UserError(
                    f"{self._adapter.path} adapts {shown(one)}, and {self._base.path} has {shown(longer[0])} and "
                    f"{shown(longer[1])}",
                    "Train it beside the whole model, or name a file of its tower alone with base= (--base)",
                )
            if found := longer or [n for n in self._base.shapes if one.endswith(f".{n}")]:
                return max(found, key=len)
        return None


def _by_module(config: JsonObject, key: str) -> dict[str, float]:
    """Numbers by the end of a module's name; PEFT takes them for regular expressions."""
    values = config.object(key)
    for name in values:
        if not re.fullmatch(r"[\w.]+", name) or values.number(name, above=0) is None:
            raise config.error(key, f"has the pattern {shown(name)}; names of modules are read", "Merge it in PEFT")
    return {name: values.number(name) for name in values}


def _of(numbers: Mapping[str, float], module: str, default: float) -> float:
    return next((x for name, x in numbers.items() if f".{module}".endswith(f".{name}")), default)
