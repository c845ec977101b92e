"""VAR's objective: the tokens of each map of an image, of its class and the maps before, all of a map at once.

Tian et al., "Visual autoregressive modeling: scalable image generation via next-scale prediction" (arXiv:2404.02905),
sections 3.1 and 3.2. In-painting, out-painting and editing by class without training (its section 5.3) are the same
passes in which some tokens are those of a given image.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.var import VAR
from vit_jax.models.var_tokenizer import VARTokenizer
from vit_jax.naming import build_model
from vit_jax.nn.decode import Sampling, check_top_k, pick
from vit_jax.nn.image_tokenizer import Grid
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import Count, Decay, NonNegative, Range
from vit_jax.tasks import Batch, DataInfo, Metrics, Picture, Variables, chosen
from vit_jax.tasks._image_tokens import (
    TokenGenerator,
    cache_bytes,
    masked_tokens,
    repainting_pictures,
    tokenizer_of,
    unit_range,
)

_GUIDANCE = 1.5  # of the paper's figures


@dataclasses.dataclass(frozen=True)
class ScaleSampling:
    """How the tokens of each map are drawn; the defaults are those of the paper's figures.

    Args:
        guidance: s of (1 + t) c - t u, where c are the logits with the class, u those without, and t = s k / (K - 1)
            of map number k of K grows from 0; 0 for none. Others take twice as many rows. None for the paper's 1.5, or
            none where the model was trained without a null class.
        temperature: see `vit_jax.nn.decode.Sampling`, like `top_k` and `top_p`.
        top_k: the paper's 900 are all where there are fewer tokens.
        cache: keys and values of the maps so far are kept. Without, all of them are computed again for each map, for
            comparison.
    """

    guidance: NonNegative | None = None
    temperature: NonNegative = 1.0
    top_k: Count | None = 900
    top_p: Annotated[float, Range(0, 1, open_low=True)] | None = 0.96
    cache: bool = True


@dataclasses.dataclass(frozen=True)
class NextScale(TokenGenerator):
    """The cross-entropy of each token of an image after its class and the maps before its own.

    Classes are dropped in training alone; the authors' forward pass drops them in evaluation too.

    The scalar is the mean over all tokens. Metrics: `loss` in nats and `bits`, both a token, and `accuracy`; of the
    last map `loss_last` and `accuracy_last`.

    Outputs: `token_losses` [B, T] in nats, with `token_weights` and `token_bytes` for the evaluator `perplexity`;
    `indices`, `reconstruction` and `original` of the tokenizer, and `scales` [B, K, H, W, 3], the reconstruction after
    each map; `samples` of the classes in `label`, or of all in turn.
    """

    model: VAR
    tokenizer: VARTokenizer
    sampling: ClassVar[type] = ScaleSampling

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        dropping, *keys = jax.random.split(rng, 3)
        rngs = dict(zip(("dropout", "drop_path"), keys, strict=True))
        indices, labels = self._indices(variables, batch), self._shown_labels(batch, dropping)
        losses, right = self._costs(variables, labels, indices, train=True, rngs=rngs)
        last = math.prod(self._grids[-1])
        total, count, tail = losses.sum(), jnp.float32(losses.size), jnp.float32(len(losses) * last)
        metrics = {
            "loss": (total, count),
            "bits": (total / math.log(2), count),
            "accuracy": (right.sum(dtype=jnp.float32), count),
            "loss_last": (losses[:, -last:].sum(), tail),
            "accuracy_last": (right[:, -last:].sum(dtype=jnp.float32), tail),
        }
        return losses.mean(), (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        def losses() -> Array:
            return self._costs(variables, self._labels(batch), self._indices(variables, batch))[0]

        def scales() -> Array:
            indices = self._indices(variables, batch)
            images = self._tokenizing(variables, indices, self._grids, method="detokenize_scales")
            return jnp.moveaxis(unit_range(images), 0, 1)

        def samples() -> Array:
            labels = self._asked_labels(batch, len(rng))
            return self.sample(variables, {"label": labels}, rng, self.sampling())

        def ones(value: float) -> Array:
            return jnp.full((len(rng), self._count), value)

        return chosen(
            names,
            {
                "token_losses": losses,
                "token_weights": lambda: ones(1.0),
                "token_bytes": lambda: ones(0.0),
                "indices": lambda: self._indices(variables, batch),
                "reconstruction": lambda: self._pixels(variables, self._indices(variables, batch)),
                "original": lambda: unit_range(batch["image"]),
                "scales": scales,
                "samples": samples,
            },
        )

    def pictures(self, settings: ScaleSampling) -> dict[str, Picture]:
        """See `Task`."""
        del settings
        return repainting_pictures(self.image_size)

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: ScaleSampling
    ) -> Float[Array, "B H W 3"]:
        """See `Task`.

        Args:
            conditions: `label` [B]; with `image` and `mask` tokens are new where some pixel is to be, of coarse maps
                where most of the place is.
        """
        summed = self._drawn(variables, conditions, keys, settings)[1]
        return unit_range(self._tokenizing(variables, summed, method="decode"))

    def sampling_costs(self, settings: ScaleSampling) -> dict[str, int]:
        """See `Task`: passes of the Transformer, of which guidance takes twice as many rows."""
        rows = 1 + (self._guidance(settings) != 0.0)
        found = {"tokens": self._count, "passes": len(self._grids)}
        if settings.cache:
            found["cache_bytes"] = cache_bytes(lambda: self.model.new_cache(rows))
        return found

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; those of the generator, with masked products as the others."""
        del batch
        return self.model.flops()

    def _drawn(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: ScaleSampling
    ) -> tuple[Int[Array, "B T"], Float[Array, "B h w D"]]:
        """Tokens, map by map, and the latents that they sum up to."""
        if settings.top_k != ScaleSampling.top_k:
            check_top_k(settings.top_k, self.tokenizer.vocab_size)
        guidance, grids = self._guidance(settings), self._grids
        guided = guidance != 0.0
        how = Sampling(settings.temperature, settings.top_k, settings.top_p)
        labels, collections = conditions["label"], self._own(variables)
        rows = len(labels)
        # The half below is without a class.
        asked = jnp.concatenate([labels, jnp.full_like(labels, len(self.classes))]) if guided else labels
        cache = self.model.new_cache(len(asked)) if settings.cache else None
        given = self._given(variables, conditions)
        summed, seen, tokens = jnp.zeros((rows, *grids[-1], self.tokenizer.latent_width)), [], []
        for k, grid in enumerate(grids):
            here = [jnp.concatenate([x, x]) if guided else x for x in seen]
            if settings.cache:
                inputs = here[-1] if here else None
                logits, cache = self.model.apply(collections, asked, inputs, k, cache, method="further")
            else:
                before = jnp.zeros((len(asked), 0, self.tokenizer.latent_width))
                logits = self.model.apply(collections, asked, jnp.concatenate([before, *here], axis=1))
                logits = logits[:, -math.prod(grid) :]
            if guided:
                t = guidance * k / max(len(grids) - 1, 1)
                logits = (1 + t) * logits[:rows] - t * logits[rows:]
            found = pick(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, k), how)
            if given is not None:
                found = jnp.where(given[1][k], given[0][k], found)
            tokens.append(found)
            maps = found.reshape(rows, *grid)
            summed, following = self._tokenizing(variables, summed, maps, k, grids, method="added")
            seen += [] if following is None else [following]
        return jnp.concatenate(tokens, axis=1), summed

    def _given(
        self, variables: Variables, conditions: Mapping[str, Array]
    ) -> tuple[list[Int[Array, "B t"]], list[Bool[Array, "B t"]]] | None:
        """Of each map the tokens of a given image, and which of them stay; None where there is no image."""
        if "mask" not in conditions:
            return None
        tokens = self._tokenizing(variables, conditions["image"], method="tokenize")
        sizes = [math.prod(grid) for grid in self._grids]
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        return jnp.split(tokens, ends[:-1], axis=1), kept_tokens(conditions["mask"], self._grids)

    def _costs(
        self, variables: Variables, labels: Int[Array, " B"], indices: Int[Array, "B T"], **how: Any
    ) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
        """Nats of each token, and whether it is the likeliest one."""
        inputs = self._tokenizing(variables, indices, self._grids, method="inputs")
        logits = self.model.apply(self._own(variables), labels, jax.lax.stop_gradient(inputs), **how)
        logs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(logs, indices[..., None], axis=2)[..., 0], logits.argmax(-1) == indices

    def _guidance(self, settings: ScaleSampling) -> float:
        """That of the last map, 0 for none.

        Raises:
            UserError: where samples should be guided, and cannot.
        """
        if settings.guidance is None:
            return _GUIDANCE if self._has_null else 0.0
        self._check_guidance(settings.guidance != 0.0)
        return settings.guidance


def kept_tokens(mask: Float[Array, "B H W 1"], grids: tuple[Grid, ...]) -> list[Bool[Array, "B t"]]:
    """Of each map which tokens of a given image stay, where `mask` says what is to be new.

    A token of the last map stays where no pixel of its place is to be new, of the others where that is so of more
    than half of it, by bilinear interpolation, as in the authors' notebook.

    Raises:
        UserError: where the pixels do not divide into places.
    """
    stays = 1.0 - masked_tokens(mask, grids[-1:]).reshape(-1, *grids[-1]).astype(jnp.float32)
    return [(resize_maps(stays[..., None], grid, "half_pixel") > 0.5).reshape(len(mask), -1) for grid in grids]


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    tokenizer: Mapping[str, Any],
    label_drop: Decay = 0.1,
    conditional: bool = True,
) -> NextScale:
    """The task.

    Args:
        model: the section of a `var`; its maps, classes, codes and width of latents are said here.
        tokenizer: section of a `var_tokenizer`; its parameters come by `init_from={"tokenizer": PATH}`.
        label_drop: share of training examples that are shown without their class, for guidance.
        conditional: whether images are generated of the classes that the data have.
    """
    made, size = tokenizer_of(tokenizer, data)
    if not isinstance(made, VARTokenizer):
        raise UserError(
            f"The tokenizer {tokenizer.get('name')!r} makes no maps from coarse to fine", "Name var_tokenizer"
        )
    if model.get("name") != "var":
        raise UserError(f"The model {model.get('name')!r} does not predict maps of tokens", "Name var")
    classes = tuple(data.label_names) if conditional else ()
    module, spec = build_model(
        model, grids=[list(grid) for grid in made.grids(size)], num_classes=len(classes), vocab_size=made.vocab_size,
        latent_width=made.latent_width,
    )  # fmt: skip
    return NextScale(module, spec, made, size, classes, label_drop if classes else 0.0)
