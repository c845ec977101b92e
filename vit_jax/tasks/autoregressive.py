"""Images as tokens, one after the other: what the transformer of "Taming transformers for high-resolution image
synthesis" (arXiv:2012.09841), section 3.2, and iGPT ("Generative pretraining from pixels", ICML 2020) learn.

The tokens of a grid come in an order: as one reads, in any fixed order, or in another one for each image, where the
place of the token that comes next is a part of the question.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from vit_jax.errors import UserError
from vit_jax.models.token_gpt import TokenGPT
from vit_jax.naming import build_model
from vit_jax.nn.decode import Sampling, check_top_k, decode
from vit_jax.nn.token_order import RANDOM, fixed_order, random_orders
from vit_jax.ranges import Count, Decay, NonNegative, Range
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, chosen
from vit_jax.tasks._image_tokens import TokenGenerator, cache_bytes, tokenizer_of, unit_range

_MODELS = ("token_gpt", "igpt")


@dataclasses.dataclass(frozen=True)
class TokenSampling:
    """How tokens are drawn; the defaults are the paper's.

    Args:
        guidance: g of u + g (c - u), where c are the logits with the class and u those without; 1 for none, as in the
            paper. Another value takes two passes.
        temperature: see `vit_jax.nn.decode.Sampling`, like `top_k` and `top_p`.
        top_k: the paper's 100 are all where there are fewer tokens.
        cache: keys and values of the tokens so far are kept. Without, everything is computed again for each token, for
            comparison.
    """

    guidance: NonNegative = 1.0
    temperature: NonNegative = 1.0
    top_k: Count | None = 100
    top_p: Annotated[float, Range(0, 1, open_low=True)] | None = None
    cache: bool = True


@dataclasses.dataclass(frozen=True)
class Autoregressive(TokenGenerator):
    """The cross-entropy of each token of an image after its class and the tokens before it.

    The scalar is the mean over all tokens. Metrics: `loss` in nats and `bits`, both a token, and `accuracy`.

    Outputs: `token_losses` [B, T] in nats, in the order in which the tokens come (a random order is drawn by the
    example's key); `token_weights`, which are 1; `features` [B, D] without a class, see `TokenGPT.features`, where the
    order is that of reading and there is a null class; `indices`, `reconstruction` and `original` of the tokenizer;
    `samples` of the classes in `label`, or of all in turn, and `passes` [B, T], when each of their tokens comes, by
    place and from 0.

    Args:
        order: of the tokens: a name of `vit_jax.nn.token_order.ORDERS`, or all places.
    """

    model: TokenGPT
    order: str | tuple[int, ...] = "raster"
    sampling: ClassVar[type] = TokenSampling

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        dropping, ordering, *keys = jax.random.split(rng, 4)
        indices = self._indices(variables, batch)
        places = self._orders(jax.random.split(ordering, len(indices)))
        labels = self._shown_labels(batch, dropping)
        rngs = dict(zip(("dropout", "drop_path"), keys, strict=True))
        losses, right = self._costs(variables, labels, indices, places, train=True, rngs=rngs)
        total, count = losses.sum(), jnp.float32(losses.size)
        metrics = {
            "loss": (total, count),
            "bits": (total / math.log(2), count),
            "accuracy": (right.sum(dtype=jnp.float32), count),
        }
        return losses.mean(), (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        def losses() -> Array:
            indices = self._indices(variables, batch)
            return self._costs(variables, self._labels(batch), indices, self._orders(rng))[0]

        def samples() -> Array:
            labels = self._asked_labels(batch, len(rng))
            return self.sample(variables, {"label": labels}, rng, self.sampling())

        def features() -> Array:
            indices = self._indices(variables, batch)
            nothing = jnp.full(len(indices), len(self.classes))
            return self.model.apply(self._own(variables), nothing, indices, method="features")

        given = {
            "token_losses": losses,
            "token_weights": lambda: jnp.ones((len(rng), self._count)),
            "indices": lambda: self._indices(variables, batch),
            "reconstruction": lambda: self._pixels(variables, self._indices(variables, batch)),
            "original": lambda: unit_range(batch["image"]),
            "samples": samples,
            "passes": lambda: jnp.argsort(self._orders(_keys_of_sample(rng)[0]), axis=1),
        }
        if self.order == "raster" and (self.label_drop or not self.classes):
            given["features"] = features
        return chosen(names, given)

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: TokenSampling
    ) -> Float[Array, "B H W 3"]:
        self._check(settings)
        ordering, drawing = _keys_of_sample(keys)
        places = self._orders(ordering)
        tokens = self._drawn(variables, conditions["label"], places, drawing, settings)
        there = jnp.put_along_axis(jnp.zeros_like(tokens), places, tokens, axis=1, inplace=False)
        return self._pixels(variables, there)

    def sampling_costs(self, settings: TokenSampling) -> dict[str, int]:
        found = {"tokens": self._count, "passes": self._count}
        if settings.cache:
            rows = 1 + (settings.guidance != 1.0)
            found["cache_bytes"] = cache_bytes(lambda: self.model.transformer.new_cache(rows, self._count))
        return found

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; those of the generator, with masked products as the others."""
        del batch
        return self.model.token_flops()

    def _drawn(
        self,
        variables: Variables,
        labels: Int[Array, " B"],
        places: Int[Array, "B T"],
        keys: PRNGKeyArray,
        settings: TokenSampling,
    ) -> Int[Array, "B T"]:
        """Tokens in the order in which they come."""
        collections, rows, count = self._own(variables), len(labels), self._count
        vocabulary, guided = self.tokenizer.vocab_size, settings.guidance != 1.0
        # The half below is without a class.
        both = jnp.concatenate([places, places]) if guided else places
        before = jnp.pad(both[:, :-1], ((0, 0), (1, 0)), constant_values=-1)

        def doubled(ids: Int[Array, " B"]) -> Int[Array, " twice"]:
            without = jnp.where(ids >= vocabulary, vocabulary + len(self.classes), ids)
            return jnp.concatenate([ids, without]) if guided else ids

        def combined(logits: Float[Array, "twice V"]) -> Float[Array, "B V"]:
            with_class, without = logits[:rows], logits[rows:]
            return without + settings.guidance * (with_class - without) if guided else with_class

        def cached(ids: Array, at: Array, cache: PyTree) -> tuple[Array, PyTree]:
            where = jnp.concatenate([at, at])[:, None] if guided else at[:, None]
            asked = (jnp.take_along_axis(x, where, axis=1) for x in (before, both))
            # The same place in all rows: one slice of the cache is written.
            found, cache = self.model.apply(collections, doubled(ids)[:, None], *asked, cache, at[0], method="further")
            return combined(self.model.apply(collections, found[:, 0], method="logits")), cache

        def again(ids: Array, at: Array, known: Array) -> tuple[Array, Array]:
            """All of it once more: `known` is what has been read so far."""
            known = jax.lax.dynamic_update_slice_in_dim(known, doubled(ids)[:, None], at[0], 1)
            found = self.model.apply(
                collections, known[:, 0] - vocabulary, jnp.roll(known, -1, axis=1), both
            )["logits"]  # fmt: skip
            return combined(jax.lax.dynamic_index_in_dim(found, at[0], 1, keepdims=False)), known

        twice = len(both)
        if settings.cache:
            cache = self.model.transformer.new_cache(twice, count)
        else:
            cache = jnp.zeros((twice, count), jnp.int32)
        how = Sampling(settings.temperature, settings.top_k, settings.top_p)
        first, at = vocabulary + labels, jnp.zeros(rows, jnp.int32)
        return decode(cached if settings.cache else again, cache, first, at, length=count, keys=keys, sampling=how)

    def _costs(
        self, variables: Variables, labels: Int[Array, " B"], indices: Int[Array, "B T"], places: Array, **how: Any
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Nats of each token, in the order in which they come, and whether it is the likeliest one."""
        tokens = jnp.take_along_axis(indices, places, axis=1)
        logits = self.model.apply(self._own(variables), labels, tokens, places, **how)["logits"]
        logs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(logs, tokens[..., None], axis=2)[..., 0], logits.argmax(-1) == tokens

    def _orders(self, keys: PRNGKeyArray) -> Int[Array, "B T"]:
        """The places of the tokens in the order in which they come, of each row."""
        if self.order == RANDOM:
            return random_orders(keys, self._count)
        return jnp.broadcast_to(_fixed(self.order, self._grids), (len(keys), self._count))

    def _check(self, settings: TokenSampling) -> None:
        if settings.top_k != TokenSampling.top_k:
            check_top_k(settings.top_k, self.tokenizer.vocab_size)
        self._check_guidance(settings.guidance != 1.0)


def _keys_of_sample(keys: PRNGKeyArray) -> PRNGKeyArray:
    """Those that order the tokens of each sample, and those that they are drawn with."""
    return jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)


def _fixed(order: str | tuple[int, ...], grids: Sequence[tuple[int, int]]) -> Int[Array, " T"]:
    if len(grids) != 1:
        raise UserError("This generator reads one map of tokens", "Use a tokenizer that gives one, such as vqvae")
    return jnp.asarray(fixed_order(order, grids[0]))


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    tokenizer: Mapping[str, Any],
    order: str | Sequence[int] = "raster",
    label_drop: Decay = 0.1,
    conditional: bool = True,
) -> Autoregressive:
    """The task.

    Args:
        model: the section of a `token_gpt` or `igpt`; how many tokens and conditions there are is said here.
        tokenizer: section of the tokenizer's model; its parameters come by `init_from={"tokenizer": PATH}`.
        order: see `Autoregressive`.
        label_drop: share of training examples that are shown without their class, for guidance.
        conditional: whether images are generated of the classes that the data have.
    """
    made, size = tokenizer_of(tokenizer, data)
    if made.vocab_size is None:
        raise UserError("The tokenizer's latents are continuous", "Use one with a codebook, such as vqvae")
    order = order if isinstance(order, str) else tuple(order)
    grids = made.grids(size)
    if order != RANDOM:
        _fixed(order, grids)
    classes = tuple(data.label_names) if conditional else ()
    label_drop = label_drop if classes else 0.0
    if model.get("name") not in _MODELS:
        raise UserError(f"The model {model.get('name')!r} does not predict tokens", f"Name {' or '.join(_MODELS)}")
    module, spec = build_model(
        model, vocab_size=made.vocab_size, num_tokens=sum(rows * columns for rows, columns in grids),
        num_conditions=len(classes) + (label_drop > 0) or 1, own_places=order == RANDOM,
    )  # fmt: skip
    return Autoregressive(module, spec, made, size, classes, label_drop, order)
