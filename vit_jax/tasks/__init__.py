"""Training objectives, one file each, and the contract through which the loop sees them."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped, UInt8, UInt32

from vit_jax.data.fields import Fields
from vit_jax.errors import UserError
from vit_jax.nn.flops import forward_flops
from vit_jax.nn.trunk import Layers
from vit_jax.spelling import closest

Batch = Mapping[str, Array]
# {"params": tree, "model_state": tree}, and in the loss of a run with a moving average "ema" and "ema_model_state": the
# same trees with the averages of what has one.
Variables = dict[str, Any]
Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, weight), both float32 scalars

_OUTPUTS = 2**32 - 1  # keys of training are folded from the step first, which never comes so far


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a task may know about its data when it is built.

    Args:
        image_size: height and width in pixels; None for data without images.
        label_names: class names in the order of the labels; empty for data without labels.
        fields: what an example has, by name, see `vit_jax.data.fields`.
        class_counts: says how many training examples each class has; raises a `UserError` where the source does not
            know without reading them. None where there is no training source, as when a checkpoint is loaded.
    """

    image_size: tuple[int, int] | None
    label_names: tuple[str, ...]
    fields: Fields = dataclasses.field(default_factory=lambda: Fields({}))
    class_counts: Callable[[], tuple[int, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Ranked:
    """An answer that is one of several classes.

    Args:
        names: of the classes.
        probabilities: theirs.
    """

    names: Sequence[str]
    probabilities: Float[np.ndarray, " K"]

    def best(self, most: int) -> list[tuple[str, float]]:
        """The most probable ones, of equals the first ones first."""
        order = np.argsort(-self.probabilities, kind="stable")[:most]
        return [(self.names[i], float(self.probabilities[i])) for i in order]


@dataclasses.dataclass(frozen=True)
class Picture:
    """What `sample` may be given of pixels beside a prompt: an array float32 [H, W, C] of each row.

    Args:
        kind: "image", RGB in -1..1; "mask", 1 where the image is to be new and 0 where it stays; "depth", any scale;
            "control", in 0..1 what a sample is to follow, such as its edges.
        size: (H, W), that of a sample.
        count: of controls, which lie beside each other in the channels.
        needed: whether nothing is drawn without.
    """

    kind: Literal["image", "mask", "depth", "control"]
    size: tuple[int, int]
    count: int = 1
    needed: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a row."""
        return (*self.size, (3 if self.kind in ("image", "control") else 1) * self.count)


Answer = Ranked | str | UInt8[np.ndarray, "h w 3"]  # classes, a text, or a picture


class Task:
    """What a training objective gives to the loop: a frozen dataclass that holds its modules, with pure functions.

    Its module has `build(*, model, data, **kwargs) -> Task`: `model` is the config's section or None, `data` a
    `DataInfo`, and the other arguments are the keys of the config's `task` section.

    A task overrides what is below, in its class or as a field of the dataclass. Other fields are its own; other public
    names in the class are refused, because a misspelt one would be ignored in silence.
    """

    whole_batch: str = ""
    """Why the loss cannot be accumulated over microbatches (a loss over the whole batch, or a mean whose denominator
    varies between microbatches); empty where it can."""
    mixed_labels: bool = False
    """Whether `loss` takes `label` as shares [B, K], as mixup and cutmix make them."""
    product: str | None = None
    """The tree that evaluation and `vit_jax.load` use, 'params' or 'ema'; None for the EMA where there is one."""
    objective: str = "softmax"
    """What turns `logits` into probabilities, 'softmax' or 'sigmoid'."""
    model: nn.Module | None = None
    """The image model, with "encoder" in its parameters; None for a task of other networks."""
    model_spec: Mapping[str, Any] | None = None
    """`{"name": ..., "kwargs": ...}`, what rebuilds `model` from a checkpoint."""
    downstream: Mapping[str, Any] | None = None
    """The same of the model that goes on from these parameters, where that is another one."""
    static: Callable[[int], Hashable] | None = None
    """`static(step)`: a static argument of the jitted step, passed to `loss` as `static=` (one compilation per value);
    None for a loss that takes none."""

    answered_by: tuple[str, ...] = ()
    """Names of the outputs by which the task answers a person: what `predict` computes, and `bench` as inference."""
    locked_when_loaded: tuple[str, ...] = ()
    """Subtrees of the parameters that a run may freeze as a whole only if it loads them: what the others learn from."""
    flops_without: tuple[str, ...] = ()
    """Subtrees of the parameters that `flops` takes for frozen; of others it counts a gradient, see
    `vit_jax.training.frozen_flops`."""
    takes: tuple[str, ...] = ()
    """Names of outputs that `loss` takes from its batch where they are there, instead of computing them of the image:
    see `vit_jax.training.precompute`."""
    takes_beside: tuple[str, ...] = ()
    """Names of arrays that `loss` reads all the same when it takes such an output, so that they stay in its batch."""
    sampling: type | None = None
    """The settings of `sample`: a frozen dataclass whose defaults are the paper's values; None for a task that
    generates nothing. A field `cache: bool` is for measuring: False draws the same without a cache."""

    encodes: tuple[str, ...] = ()
    """Conditions of which `encoded` makes what `sample` takes in their place as well."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        known = {name for name in vars(Task) if not name.startswith("_")}
        annotated = inspect.get_annotations(cls)
        fields = {name for name, kind in annotated.items() if "ClassVar" not in str(kind)}
        for name in dict.fromkeys([*annotated, *vars(cls)]):
            if name.startswith("_") or any(name in vars(base) for base in cls.__mro__[1:]):
                continue
            meant = closest(name, known, 0.8 if name in fields else 0.5)
            if meant or name not in fields:
                raise UserError(
                    f"The task {cls.__name__} has an unknown attribute {name!r}",
                    f"Did you mean '{meant}'?" if meant else "Make it a field, or let its name start with '_'",
                )
        for name in (fields & known) - set(vars(cls)):
            # Declared without a value: it has to be given, although there is a default here.
            setattr(cls, name, dataclasses.field())

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh `{"params", "model_state"}`; `batch` holds arrays as `loss` gets them (shapes matter, values not)."""
        raise NotImplementedError

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        """The scalar to minimise, metrics as (sum, weight) pairs, and the new `model_state`."""
        raise NotImplementedError

    def remarks(self, averages: Mapping[str, float]) -> dict[str, str]:
        """Sentences for whoever watches the run, by a name of each: what looks wrong, though training can go on.

        The loop says one when it was not found for the line of the log before.

        Args:
            averages: the metrics of a line of the log, by their names.
        """
        del averages
        return {}

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """What evaluators and commands ask for by name, and nothing else (see `chosen`).

        Args:
            batch: as evaluation has it, or part of it: a text-only one has no images.
            names: `features [B, D]`, `logits [B, K]`, `samples [B, h, w, c]`, ...
            rng: a key for each example [B], which depends on the seed and on the example alone.
        """
        raise NotImplementedError

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list["Answer"]:
        """What `predict` writes for a person, one for each example.

        Args:
            outputs: those of `answered_by`.
            fields: of the data.
        """
        raise UserError(
            "This task gives no answers that could be written", "Use evaluate, or vit_jax.load(path).outputs(...)"
        )

    def conditions(self, prompts: Sequence[str], settings: Any) -> dict[str, Shaped[np.ndarray, "N ..."]]:
        """What `sample` takes of what people ask for, a row for each, on the host.

        Args:
            prompts: one or more texts.
            settings: as `sample` gets them.

        Raises:
            UserError: for a prompt that cannot be followed.
        """
        raise NotImplementedError

    def unprompted(self, indices: Int[np.ndarray, " N"]) -> dict[str, Shaped[np.ndarray, "N ..."]]:
        """What `sample` takes where nobody asks for anything in particular, a row for each of the samples that are
        numbered so: a function of its number alone, such as all classes in turn.

        Raises:
            UserError: when a sample needs a prompt.
        """
        raise UserError("This task draws nothing without a prompt", "Give at least one")

    def pictures(self, settings: Any) -> Mapping[str, Picture]:
        """What `sample` may be given of pixels, by the names that `conditions` has for it.

        Args:
            settings: as `sample` gets them.
        """
        del settings
        return {}

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: Any
    ) -> Shaped[Array, "B ..."]:
        """A sample for each row of `conditions`; traced, with `settings` static.

        Args:
            conditions: of prompts, and of pictures, see `pictures`.
            keys: one a row [B]. A sample is a function of the parameters, its condition, its key and the settings,
                whatever else is in the batch.
            settings: of the class that `sampling` names.
        """
        raise NotImplementedError

    def encoded(self, variables: Variables, rows: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        """What stands for rows of a condition of `encodes`, such as tokens for texts; traced. Who draws many samples of
        a few such rows reads each of them once."""
        raise NotImplementedError

    def sampling_costs(self, settings: Any) -> dict[str, int]:
        """What one sample costs with these settings, counted on paper: "tokens" that are drawn, "passes" through the
        network, "cache_bytes" that its cache takes; what does not apply is left out."""
        return {}

    def shown(
        self, samples: Shaped[np.ndarray, "B ..."], conditions: Mapping[str, Shaped[np.ndarray, "B ..."]]
    ) -> list["Answer"]:
        """What `generate` writes for a person, one for each sample."""
        raise NotImplementedError

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """Floating point operations of one example forward, counted on paper; None where nobody counts them. By default
        those of one image through `model`.

        Args:
            batch: arrays of a batch as the host sends it, or their shapes [B, ...], "image" whatever its views.
        """
        # Height and width whatever is in front of them: some tasks get several views of an image.
        return forward_flops(self.model, batch["image"].shape[-3:-1]) if "image" in batch else None

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """The same of one example in a step in which all parameters learn, for the utilisation that logs and `plan`
        show, which take off what frozen ones spare. By default three times the forward pass."""
        forward = self.forward_flops(batch)
        return forward and 3 * forward

    def locked(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Subtrees of the parameters that learn nothing, whatever the config freezes, and that a run has to load.

        Args:
            params: as `init` makes them, arrays or shapes.
        """
        del params
        return ()

    def layers(self) -> Layers:
        """The order of the parameters for layer-wise learning rates, see `vit_jax.nn.trunk.Trunk.layers`, by default
        that of `model`; () where it says none."""
        said = getattr(self.model, "layers", None)
        return said() if callable(said) else ()  # `nn.Sequential` calls its list of modules so


def chosen(names: Collection[str], given: Mapping[str, Array | Callable[[], Array]]) -> dict[str, Array]:
    """The named ones of what a task gives. What stands there as a function is computed only if it is named.

    Raises:
        UserError: for a name that is not among them.
    """
    for name in sorted(names):
        if name not in given:
            raise UserError(f"This task does not give {name!r}", f"It gives {', '.join(sorted(given))}")
    return {name: value() if callable(value) else value for name, value in given.items() if name in names}


def in_training(
    model: nn.Module,
    params: Any,
    state: Mapping[str, Any],
    keys: PRNGKeyArray,
    *inputs: Array,
    method: str | None = None,
) -> tuple[Any, Any]:
    """What a model gives in training, and its new state.

    Args:
        state: its collections beside the parameters.
        keys: two, for dropout and for stochastic depth.
        inputs: of the call, or of the model's `method`.
    """
    rngs = dict(zip(("dropout", "drop_path"), keys, strict=True))
    variables = {"params": params, **state}
    return model.apply(variables, *inputs, train=True, rngs=rngs, mutable=list(state), method=method)


def model_outputs(
    model: nn.Module, variables: Variables, images: Float[Array, "B H W 3"], names: Collection[str]
) -> dict[str, Array]:
    """What an image model gives in evaluation; feature maps, of which there are several, only where they are named."""
    collections = {"params": variables["params"], **variables["model_state"]}
    return model.apply(collections, images, train=False, **({"maps": True} if "maps" in names else {}))


def example_keys(seed: int | UInt32[Array, ""], batch: Batch) -> PRNGKeyArray:
    """The key of each example [B] for `outputs`, folded from the seed and the example's "index" (its row where a batch
    has none), so that it does not depend on the batch that the example is in, nor on hosts."""
    index = batch.get("index")
    if index is None:
        index = jnp.arange(jax.tree.leaves(dict(batch))[0].shape[0])
    base = jax.random.fold_in(jax.random.key(seed), _OUTPUTS)
    return jax.vmap(lambda i: jax.random.fold_in(base, i))(index)


def static_argument(task: Task, step: int) -> Hashable:
    """The task's static argument for `step`, None for a task without one."""
    return None if task.static is None else task.static(step)
