"""What a sparse Swin is worth at any pruning ratios, and what it costs: all that a search for them asks."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.models.sparse_swin import SparseStage, SparseSwin, SparseSwinEncoder
from vit_jax.models.swin import stage_name
from vit_jax.nn.pruning import CHOICES, Ratios, choices_for, pairs_of
from vit_jax.nn.stack import block_name
from vit_jax.planning.evolution import Space
from vit_jax.training.config import run_config
from vit_jax.training.evaluation import inputs_of


def encoder_of(loaded: Loaded) -> SparseSwinEncoder:
    """The trunk of a checkpoint whose windows can be left out.

    Raises:
        UserError: there is none in it.
    """
    if not isinstance(loaded.model, SparseSwin):
        raise UserError(
            f"{loaded.path} has no windows that can be left out",
            "Adapt a Swin to pruning first: vit_jax train --config sparsevit_i1k:init=PATH",
        )
    return loaded.model.encoder


def space_of(encoder: SparseSwinEncoder, image_size: Sequence[int]) -> Space:
    """The ratios that a search chooses from: those of each stage with which a window is left."""
    choices = tuple(map(choices_for, encoder.windows(image_size)))
    return Space(choices, tuple(pairs_of(depth) for depth in encoder.depths))


def uniform_ratios(space: Space, ratio: float) -> Ratios:
    """One ratio everywhere, less where a stage would be left without windows."""
    return tuple((min(ratio, choices[-1]),) * count for choices, count in zip(space.choices, space.counts, strict=True))


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a model costs at any ratios, as the sum of what its pairs of blocks do.

    Args:
        pairs: of each stage, and each of its pairs of blocks, the cost for each of `CHOICES` that it can have.
        rest: of all else.
        unit: "seconds" or "flops".
    """

    pairs: tuple[tuple[tuple[float, ...], ...], ...]
    rest: float
    unit: str

    def __call__(self, ratios: Ratios) -> float:
        stages = zip(self.pairs, ratios, strict=True)
        found = (costs[CHOICES.index(r)] for of_stage, own in stages for costs, r in zip(of_stage, own, strict=True))
        return self.rest + sum(found)


def counted(encoder: SparseSwinEncoder, image_size: tuple[int, int]) -> Costs:
    """Floating point operations of one image."""
    space = space_of(encoder, image_size)
    dense = uniform_ratios(space, 0.0)

    def flops(ratios: Ratios) -> float:
        return encoder.clone(pruning_ratios=ratios, parent=None).flops(image_size)

    def more(stage: int, pair: int, ratio: float) -> float:
        """Than that of the dense model, which is in the rest."""
        ratios = [list(own) for own in dense]
        ratios[stage][pair] = ratio
        return flops(tuple(map(tuple, ratios))) - flops(dense)

    pairs = tuple(
        tuple(tuple(more(i, pair, ratio) for ratio in choices) for pair in range(count))
        for i, (choices, count) in enumerate(zip(space.choices, space.counts, strict=True))
    )
    return Costs(pairs, flops(dense), "flops")


def timed(loaded: Loaded, image_size: tuple[int, int], batch_size: int, rounds: int = 10) -> Costs:
    """Seconds of a batch on this machine: of the dense model, and of a pair of blocks of each stage at each ratio.

    The pairs of a stage take equally long, so that 36 small programs say what a Swin-T takes at 120,285 ratios.
    """
    encoder = encoder_of(loaded)
    space = space_of(encoder, image_size)
    rest = seconds_of_model(loaded, uniform_ratios(space, 0.0), image_size, batch_size, rounds)
    pairs = []
    for i, (depth, choices) in enumerate(zip(encoder.depths, space.choices, strict=True)):
        # The last pair of a stage may be one block.
        blocks = [min(2, depth - j) for j in range(0, depth, 2)]
        how = (image_size, batch_size, rounds)
        of_blocks = {
            count: tuple(_seconds_of_blocks(loaded, i, count, ratio, *how) for ratio in choices)
            for count in set(blocks)
        }
        pairs.append(tuple(of_blocks[count] for count in blocks))
        rest -= sum(costs[0] for costs in pairs[-1])
    return Costs(tuple(pairs), max(rest, 0.0), "seconds")


def _seconds_of_blocks(
    loaded: Loaded, i: int, count: int, ratio: float, image_size: tuple[int, int], batch_size: int, rounds: int
) -> float:
    """Of the first blocks of a stage."""
    encoder = encoder_of(loaded)
    stage = SparseStage(
        encoder.styles[i], count, (0.0,) * count, False, encoder.execution, ratios=(ratio,), scores=encoder.scores
    )
    parameters = loaded.params["encoder"][stage_name(i)]
    own = {"params": {name: parameters[name] for name in map(block_name, range(count))}}
    shape = (batch_size, *encoder.grids(image_size)[i], encoder.width * 2**i)
    x = jnp.asarray(np.random.default_rng(i).normal(size=shape), encoder.execution.dtype)
    return _seconds(jax.jit(stage.apply), (own, x), rounds)


def seconds_of_model(
    loaded: Loaded, ratios: Ratios, image_size: tuple[int, int], batch_size: int, rounds: int = 10
) -> float:
    """Of a batch through the model at these ratios, windows gathered: the median of so many rounds."""
    encoder = encoder_of(loaded).clone(pruning_ratios=ratios, parent=None)
    model = loaded.model.clone(encoder=encoder)
    x = np.random.default_rng(0).normal(size=(batch_size, *image_size, 3)).astype(np.float32)
    return _seconds(jax.jit(lambda v, x: model.apply(v, x, train=False)), (_collections(loaded), x), rounds)


def accuracy_of(loaded: Loaded, values: Mapping[str, Any], examples: int | None) -> Callable[[Ratios], float]:
    """Accuracy on the evaluation data of a plain config, by one program that serves all ratios.

    Args:
        values: the config, such as the checkpoint's.
        examples: only so many, evenly spaced; None for all. They are kept in memory.

    Raises:
        UserError: the data has several labels an image, or classes that the model does not know.
    """
    model, config = loaded.model, run_config(values)
    inputs = inputs_of(loaded, config)
    pipeline = inputs.eval_pipeline(config.batch_size, "config.data.eval").with_classes(loaded.labels)
    if examples is not None and examples < len(pipeline.source):
        pipeline = pipeline.over(_Some(pipeline.source, examples), pipeline.fields, None)
    batches = list(pipeline.iterate())
    on_device = inputs.on_device_eval()
    if batches[0]["label"].ndim != 1:
        raise UserError("The evaluation data has several labels an image", "Search on data with one label an image")

    @jax.jit
    def right(variables: Any, batch: Any, ratios: tuple[Float[Array, " p"], ...]) -> Array:
        batch = on_device(batch)
        logits = model.apply(variables, batch["image"], ratios, train=False)["logits"]
        return ((logits.argmax(-1) == batch["label"]) * (batch["valid"] > 0)).sum()

    variables, total = _collections(loaded), len(pipeline.source)

    def accuracy(ratios: Ratios) -> float:
        traced = tuple(jnp.array(own, jnp.float32) for own in ratios)
        return sum(int(right(variables, batch, traced)) for batch in batches) / total

    return accuracy


class _Some:
    """So many examples of a source, evenly spaced."""

    def __init__(self, source: Source, examples: int):
        self._source, self.label_names = source, source.label_names
        self._indices = np.linspace(0, len(source), examples, endpoint=False).astype(int)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        return self._source[int(self._indices[index])]


def _collections(loaded: Loaded) -> dict[str, Any]:
    return {"params": loaded.params, **loaded.model_state}


def _seconds(function: Callable[..., Any], arguments: tuple[Any, ...], rounds: int) -> float:
    taken = []
    for _ in range(rounds + 2):  # the first two compile and warm up
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])
