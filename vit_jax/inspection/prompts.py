"""The words that a learned prompt is nearest to, out of the result of `vit_jax.load`."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.text import tokenizer_of
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LearnedPrompt:
    """A learned context, see `vit_jax.tasks._prompts.PromptTask`.

    Args:
        context: its vectors, of all classes or of each; with the words that they started from.
        nearest: of every vector, row by row, the tokens whose vectors are nearest, nearest first, and how far they are.
        arrays: the context and whatever else was learned, by name.
    """

    context: Float32[np.ndarray, "*K M D"]
    nearest: tuple[tuple[tuple[str, float], ...], ...]
    arrays: dict[str, Float32[np.ndarray, "..."]]

    def to_json(self, loaded: Loaded) -> dict[str, Any]:
        """What belongs to the arrays: the task's arguments, the classes, and the nearest tokens."""
        task = loaded.metadata["task"]
        own = {name: value for name, value in task["kwargs"].items() if name not in ("model", "tokenizer")}
        nearest = [[{"token": token, "distance": distance} for token, distance in row] for row in self.nearest]
        return {"task": task["name"], **own, "classes": list(loaded.labels), "nearest": nearest}


def has_prompt(loaded: Loaded) -> bool:
    """Whether `learned_prompt` can be had."""
    return "context" in loaded.params.get("prompt", {}) and "embedding" in loaded.params.get("text", {})


def learned_prompt(loaded: Loaded, count: int = 5) -> LearnedPrompt:
    """The context, and for each of its vectors the `count` tokens nearest to it by Euclidean distance, as CoOp's
    authors read theirs (arXiv:2109.01134): few of them are words that a person would write.

    Raises:
        UserError: for a checkpoint that has learned no prompt.
    """
    if not has_prompt(loaded):
        raise UserError("This checkpoint has learned no prompt", "Give one of the tasks coop or cocoop")
    tokenizer, _ = tokenizer_of(loaded.metadata["task"]["kwargs"]["tokenizer"])
    embedding = np.asarray(loaded.params["text"]["embedding"])
    prompt = jax.tree.map(np.asarray, loaded.params["prompt"])
    context = prompt["context"]
    if words := loaded.task.words:
        context = context + embedding[list(words)]
    special = {tokenizer.bos_id, tokenizer.eos_id}
    written = np.array([i for i in range(len(embedding)) if i not in special and i < tokenizer.vocab_size])
    rows = []
    for vector in context.reshape(-1, context.shape[-1]):
        distances = _distances(vector, embedding[written])
        order = np.argsort(distances, kind="stable")[:count]
        rows.append(tuple((tokenizer.decode([int(written[i])]), float(distances[i])) for i in order))
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path({**prompt, "context": context})
    }
    return LearnedPrompt(context, tuple(rows), arrays)


def _distances(vector: Float[np.ndarray, " D"], others: Float[np.ndarray, "V D"]) -> Float[np.ndarray, " V"]:
    return np.sqrt(((others.astype(np.float64) - vector) ** 2).sum(axis=1))
