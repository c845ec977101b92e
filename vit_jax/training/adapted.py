"""A task whose networks learn through adapters: what it trains stands beside kernels that stay as they are."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.nn.lora import LORA, LoRA, first_outputs, fresh_factors, merged
from vit_jax.nn.trunk import Layers, below
from vit_jax.tasks import Batch, Metrics, Task, Variables
from vit_jax.training.parameters import check_patterns, first_match, path_name

_KEY = 0x10A  # folded into the key of `init`, whose own draws stay what they are without adapters


class Adapted(Task):
    """The task `inner` with its parameters and one subtree more, `params["lora"]`; in all other respects `inner`.

    Subtrees in which something is adapted are locked: they are loaded and stay, and what is beside them (a head) learns
    with the adapters, see `vit_jax.nn.lora`. What `inner` gets has no adapters: they are in its kernels.
    """

    def __init__(self, inner: Task, lora: LoRA):
        own = {name for name in vars(Adapted) if not name.startswith("_")}
        self.__dict__ |= {name: getattr(inner, name) for name in vars(Task) if name[0] != "_" and name not in own}
        self._inner, self._lora = inner, lora

    def __getattr__(self, name: str) -> Any:
        """What a task has beside the contract, such as its tokenizer."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = self._inner.init(rng, batch)
        adapters = fresh_adapters(jax.random.fold_in(rng, _KEY), variables["params"], self._lora)
        return {**variables, "params": {**variables["params"], LORA: adapters}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""], **static: Any
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        return self._inner.loss(self._merged(variables), batch, rng, step, **static)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        return self._inner.outputs(self._merged(variables), batch, names, rng)

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: Any
    ) -> Shaped[Array, "B ..."]:
        return self._inner.sample(self._merged(variables), conditions, keys, settings)

    def encoded(self, variables: Variables, rows: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        return self._inner.encoded(self._merged(variables), rows)

    def layers(self) -> Layers:
        """An adapter learns at the rate of its kernel's layer."""
        layers = self._inner.layers()
        return tuple(one + other for one, other in zip(layers, below(LORA, layers), strict=True))

    def locked(self, params: PyTree) -> tuple[str, ...]:
        return (*self._inner.locked(params), *params[LORA])

    def _merged(self, variables: Variables) -> Variables:
        trees = {name: merged(variables[name], self._lora.scale) for name in ("params", "ema") if name in variables}
        return {**variables, **trees}


def with_adapters(task: Task, section: Mapping[str, Any] | None) -> Task:
    """The task of a run: as it is, or with the adapters that `config.lora` asks for."""
    return task if section is None else Adapted(task, construct(LoRA, section, "config.lora"))


def fresh_adapters(key: PRNGKeyArray, params: PyTree, lora: LoRA) -> dict[str, Any]:
    """Adapters of the kernels that the patterns match, under the kernels' paths.

    Raises:
        UserError: for a pattern that matches no kernel, or something else, or a rank above that of a kernel.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    check_patterns(lora.patterns, list(leaves), "config.lora.match")
    adapters: dict[str, Any] = {}
    for i, (name, leaf) in enumerate(leaves.items()):
        if first_match(lora.patterns, name) < 0:
            continue
        *parents, last = name.split("/")
        if last != "kernel" or len(leaf.shape) < 2:
            raise UserError(f"config.lora.match matches {name!r}, which is no kernel", "Let it end in '/kernel'")
        cut = first_outputs(leaf.shape)
        highest = min(math.prod(leaf.shape[:cut]), math.prod(leaf.shape[cut:]))
        if lora.rank > highest:
            raise UserError(f"config.lora.rank is {lora.rank}, and {name!r} has a rank of {highest}", "Lower it")
        node = adapters
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = fresh_factors(jax.random.fold_in(key, i), leaf.shape, lora.rank)
    return adapters
