"""What tasks have in common that learn the words around a class's name: prompts in tokens, and classifying by them."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vit_jax.data.classes import base_classes
from vit_jax.data.fields import Fields
from vit_jax.data.text import tokenizer_of
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.naming import build_model, named_module
from vit_jax.nn.two_towers import TwoTowers
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Ranked, Task, Variables, chosen

Position = Literal["end", "middle", "front"]
Classes = Literal["all", "base"]


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """A prompt for each class: start, learned vectors and the class's name, a full stop, end, and padding.

    Args:
        ids: tokens; 0 where a learned vector stands.
        slots: which of the learned vectors stands at a place, -1 where a token does.
        ends: places of the end tokens.
    """

    ids: Int[np.ndarray, "K T"]
    slots: Int[np.ndarray, "K T"]
    ends: Int[np.ndarray, " K"]

    def filled(self, tokens: Float[Array, "K T D"], context: Float[Array, "*K M D"]) -> Float[Array, "K T D"]:
        """The vectors of all places.

        Args:
            tokens: those of `ids`.
            context: the learned ones, of all classes or of each.
        """
        places = jnp.maximum(self.slots, 0)
        learned = context[places] if context.ndim == 2 else jnp.take_along_axis(context, places[..., None], axis=1)
        return jnp.where(self._learned[..., None], learned, tokens)

    def first(self, count: int) -> "Prompts":
        """Those of the first classes."""
        return Prompts(self.ids[:count], self.slots[:count], self.ends[:count])

    @property
    def _learned(self) -> Bool[np.ndarray, "K T"]:
        return self.slots >= 0


def prompts_of(names: Sequence[str], tokenizer: Tokenizer, context: int, position: Position, longest: int) -> Prompts:
    """The prompts of some classes, as long as the longest of them needs: no token of a causal tower sees the padding.

    Args:
        names: of the classes; underscores are spaces, as in CoOp's code.
        context: M, the number of learned vectors.
        position: of the name among them: after, between the two halves, or in front.
        longest: places that the text tower has.

    Raises:
        UserError: for a context or a name that does not fit.
    """
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    stop = [*tokenizer.encode("."), tokenizer.eos_id]
    room = longest - len(start) - context - len(stop)
    if room < 1:
        raise UserError(
            f"A context of {context} leaves no room for a class name in the {longest} places of the text tower",
            "Lower config.task.context_length",
        )
    before = {"end": context, "middle": context // 2, "front": 0}[position]
    rows, slots = [], []
    for name in names:
        words = name.replace("_", " ").strip()
        # What comes after a word is written with a space before it, which the vocabularies that keep spaces expect.
        tokens = tokenizer.encode(f" {words}" if before else words) if words else []
        if not tokens or len(tokens) > room:
            what = f"has {len(tokens)} tokens, more than the {room} places" if tokens else "is empty, among the places"
            raise UserError(
                f"The class name {name!r} {what} that a context of {context} leaves of {longest}",
                "Rename the class, or lower config.task.context_length",
            )
        rows.append([*start, *[0] * before, *tokens, *[0] * (context - before), *stop])
        at = np.full(len(rows[-1]), -1)
        at[len(start) : len(start) + before] = range(before)
        after = len(start) + before + len(tokens)
        at[after : after + context - before] = range(before, context)
        slots.append(at)
    length = max(map(len, rows))
    ids = np.array([np.pad(row, (0, length - len(row)), constant_values=tokenizer.pad_id) for row in rows], np.int32)
    places = np.array([np.pad(at, (0, length - len(at)), constant_values=-1) for at in slots], np.int32)
    return Prompts(ids, places, np.array([len(row) - 1 for row in rows], np.int32))


@dataclasses.dataclass(frozen=True)
class PromptTask(Task):
    """Classification of `batch["image"]` float [B, H, W, 3] into `batch["label"]` int32 [B] by learned prompts.

    Of the parameters those of the two towers are as `TwoTowers` has them, and `prompt` holds what is learned: `context`
    [M, D], or [K, M, D] with a context for each class. With words to start from, it is what is added to their vectors,
    and starts at zero: so it starts there whatever weights `config.init_from` brings. Everything else is to be named in
    `config.optim.frozen`; both towers are run as in evaluation.

    Args:
        model: the two towers.
        model_spec: what rebuilds them from a checkpoint.
        prompts: of all classes.
        label_names: of the classes.
        base: so many classes, the first ones, are trained on.
        context_shape: of the learned vectors.
        words: tokens that the context starts from, one for each vector; () for N(0, 0.02).
    """

    model: TwoTowers
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    prompts: Prompts = dataclasses.field(hash=False)
    label_names: tuple[str, ...]
    base: int
    context_shape: tuple[int, ...]
    words: tuple[int, ...]
    takes: ClassVar[tuple[str, ...]] = ("image_embedding",)
    flops_without: ClassVar[tuple[str, ...]] = ("encoder", "text")
    answered_by: ClassVar[tuple[str, ...]] = ("logits",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        towers, redrawing, drawing, more = jax.random.split(rng, 4)
        variables = dict(self.model.init({"params": towers}, batch["image"], jnp.asarray(self.prompts.ids[:1])))
        params = self.model.redrawn(variables.pop("params"), redrawing)
        context = 0.02 * jax.random.normal(drawing, self.context_shape)
        prompt = {"context": jnp.zeros_like(context) if self.words else context, **self._more(more)}
        return {"params": {**params, "prompt": prompt}, "model_state": variables}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        """Softmax cross-entropy over the classes that are trained on."""
        del rng, step
        images = batch.get("image_embedding")
        images = self._images(variables, batch)["image_embedding"] if images is None else images
        logits = self._logits(variables, images, self.base)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        count = jnp.float32(losses.size)
        metrics = {"loss": (losses.sum(), count), "accuracy": (right.sum(), count)}
        return losses.mean(), (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """`logits [B, K]` of all classes, trained on or not, and `tokens`, `features` and `image_embedding`."""
        del rng
        given: dict[str, Any] = dict(self._images(variables, batch))
        given["logits"] = lambda: self._logits(variables, given["image_embedding"], len(self.label_names))
        return chosen(names, given)

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[Answer]:
        rows = jax.nn.softmax(np.asarray(outputs["logits"]))
        return [Ranked(self.label_names, np.asarray(row)) for row in rows]

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """See `Task`: of an image, and its share of the prompts, which a batch computes once."""
        image = self.model.flops(batch["image"].shape[-3:-1])
        return None if image is None else image + self._text_flops(len(self.label_names), batch["image"].shape[0])

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """See `Task`: the image tower has no backward pass, and the text tower one to its inputs alone."""
        image = self.model.flops(batch["image"].shape[-3:-1])
        return None if image is None else image + 2 * self._text_flops(self.base, batch["image"].shape[0])

    def _text_flops(self, classes: int, batch: int) -> float:
        return classes * self.model.text_flops(self.prompts.ids.shape[1]) / batch

    def _more(self, rng: PRNGKeyArray) -> dict[str, Any]:
        """What is learned beside the context."""
        del rng
        return {}

    def _images(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        return self.model.apply(_collections(variables), batch["image"])

    def _context(self, variables: Variables) -> Float[Array, "*K M D"]:
        """The learned vectors, with the words that they started from."""
        context = variables["params"]["prompt"]["context"]
        if not self.words:
            return context
        return context + self.model.apply(_collections(variables), jnp.array(self.words), method="embed_tokens")

    def _texts(self, variables: Variables, context: Float[Array, "*K M D"], classes: int) -> Float[Array, "K E"]:
        """The embeddings of the prompts of the first so many classes."""
        prompts, collections = self.prompts.first(classes), _collections(variables)
        tokens = self.model.apply(collections, jnp.asarray(prompts.ids), method="embed_tokens")
        filled = prompts.filled(tokens, context[:classes] if context.ndim == 3 else context)
        return self.model.apply(collections, filled, jnp.asarray(prompts.ends), method="embed_prompts")

    def _logits(self, variables: Variables, images: Float[Array, "B E"], classes: int) -> Float[Array, "B K"]:
        """Of the first so many classes, from embedded images."""
        raise NotImplementedError


def _collections(variables: Variables) -> dict[str, Any]:
    return {"params": variables["params"], **variables["model_state"]}


def prompted(
    model: Mapping[str, Any] | None,
    data: DataInfo,
    tokenizer: str | Mapping[str, Any],
    *,
    context_length: int | None,
    usual: int,
    words: str | None,
    position: Position,
    classes: Classes,
    for_each_class: bool = False,
) -> dict[str, Any]:
    """What a `PromptTask` is made of, for the classes that the data names.

    Args:
        context_length: None for that of the words, or the `usual` one.
        words: what the context starts from, as many tokens as it is long.

    Raises:
        UserError: for a model without a text tower of CLIP's kind, data without classes, and a context, words or a
            class name that do not fit.
    """
    made, _ = tokenizer_of(tokenizer)
    section = {"name": "clip", **(model or {})}
    if not data.label_names or data.image_size is None:
        raise UserError("Prompts are learned for the classes of images, and this data has none", "Use labelled images")
    reads_text = "vocab_size" in inspect.signature(named_module("model", section["name"]).build).parameters
    towers = {"vocab_size": made.vocab_size, "end_id": made.eos_id}
    module, spec = build_model(section, **towers) if reads_text else (None, None)
    if not isinstance(module, TwoTowers):
        raise UserError(
            f"The model {section['name']!r} has no text tower that could read a prompt",
            "Use one with two, such as clip",
        )
    text = module.text
    if getattr(module.text_tower, "pooling", None) != "end" or text.mask != "causal" or made.eos_id is None:
        raise UserError(
            "Prompts are learned for a text tower whose tokens see those before them and whose end token is the text",
            "Use one of CLIP's kind",
        )
    ids = made.encode(words) if words else []
    context_length = context_length or len(ids) or usual
    if words and len(ids) != context_length:
        raise UserError(
            f"The words {words!r} are {len(ids)} tokens, and the context has {context_length}",
            f"Set config.task.context_length={len(ids)}, or other words",
        )
    count = len(data.label_names)
    shape = (context_length, text.width)
    return {
        "model": module,
        "model_spec": spec,
        "prompts": prompts_of(data.label_names, made, context_length, position, text.max_length),
        "label_names": data.label_names,
        "base": base_classes(count) if classes == "base" else count,
        "context_shape": (count, *shape) if for_each_class else shape,
        "words": tuple(ids),
    }
