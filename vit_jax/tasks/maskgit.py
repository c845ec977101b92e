"""MaskGIT's objective: the tokens of an image that are masked, of those that are not, and images filled in in passes.

Chang et al., "MaskGIT: masked generative image transformer" (arXiv:2202.04200), sections 3.1 and 3.2. In-painting,
out-painting and editing by class (section 4.3) are the same passes over a part of the tokens of a given image.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.maskgit import MaskGIT
from vit_jax.naming import build_model
from vit_jax.nn.decode import check_top_k
from vit_jax.nn.masked_decoding import Filled, MaskedSampling, check_steps, fill
from vit_jax.ranges import Decay, NonNegative, Share
from vit_jax.tasks import Batch, DataInfo, Metrics, Picture, Variables, chosen
from vit_jax.tasks._image_tokens import (
    TokenGenerator,
    masked_tokens,
    repainting_pictures,
    tokenizer_of,
    unit_range,
)


@dataclasses.dataclass(frozen=True)
class MaskGITSampling(MaskedSampling):
    """How tokens are filled in, see `MaskedSampling`; the defaults are the paper's.

    Args:
        guidance: g of u + g (c - u), where c are the logits with the class and u those without, the same in all passes;
            1 for none, as in the paper. Another value makes each pass two.
    """

    guidance: NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class MaskedGeneration(TokenGenerator):
    """The cross-entropy of masked tokens of an image, with smoothed labels.

    The share that is masked is cos(pi/2 r) with r uniform in 0..1, of which tokens are taken at random, at least one.
    The scalar is the sum over masked tokens divided by B T, so that a token weighs the same in whatever batch it is;
    the authors divide by the number of masked tokens in the batch, which makes next to no difference for Adam.

    Metrics, of masked tokens: `loss` with smoothed labels and `nats` without, and `accuracy`; `masked`, their share.

    Outputs: `features` [B, D], the mean of all tokens of an image of which none is masked, without its class, where
    there is a null class; `indices`, `reconstruction` and `original` of the tokenizer; `samples` of the classes in
    `label`, or of all in turn, and `passes` [B, T], in which pass each of their tokens was kept, from 0.

    Args:
        label_smoothing: share of the target that is spread over all tokens.
        min_mask: the least share that is masked.
    """

    model: MaskGIT
    label_smoothing: float = 0.1
    min_mask: float = 0.0
    sampling: ClassVar[type] = MaskGITSampling

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        dropping, masking, *keys = jax.random.split(rng, 4)
        indices = self._indices(variables, batch)
        masked = self._masks(masking, len(indices))
        rngs = dict(zip(("dropout", "drop_path"), keys, strict=True))
        labels = self._shown_labels(batch, dropping)
        logits = self.model.apply(self._own(variables), labels, indices, masked, train=True, rngs=rngs)["logits"]
        logs = jax.nn.log_softmax(logits)
        nats = -jnp.take_along_axis(logs, indices[..., None], axis=2)[..., 0]
        losses = (1 - self.label_smoothing) * nats - self.label_smoothing * logs.mean(axis=-1)
        weights = masked.astype(jnp.float32)
        count, right = weights.sum(), (logits.argmax(-1) == indices) * weights
        metrics = {
            "loss": ((losses * weights).sum(), count),
            "nats": ((nats * weights).sum(), count),
            "accuracy": (right.sum(), count),
            "masked": (count, jnp.float32(weights.size)),
        }
        return (losses * weights).mean(), (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        def filled() -> Filled:
            labels = self._asked_labels(batch, len(rng))
            return self._filled(variables, {"label": labels}, rng, self._defaults())

        def features() -> Array:
            indices = self._indices(variables, batch)
            nothing = jnp.full(len(indices), len(self.classes))
            whole = jnp.zeros(indices.shape, bool)
            return self.model.apply(self._own(variables), nothing, indices, whole)["features"]

        given = {
            "indices": lambda: self._indices(variables, batch),
            "reconstruction": lambda: self._pixels(variables, self._indices(variables, batch)),
            "original": lambda: unit_range(batch["image"]),
            "samples": lambda: self._pixels(variables, filled().tokens),
            "passes": lambda: filled().passes,
        }
        if self.label_drop or not self.classes:
            given["features"] = features
        return chosen(names, given)

    def pictures(self, settings: MaskGITSampling) -> dict[str, Picture]:
        """See `Task`."""
        del settings
        return repainting_pictures(self.image_size)

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: MaskGITSampling
    ) -> Float[Array, "B H W 3"]:
        """See `Task`.

        Args:
            conditions: `label` [B]; with `image` and `mask` only tokens are new of which some pixel is to be new.
        """
        return self._pixels(variables, self._filled(variables, conditions, keys, settings).tokens)

    def sampling_costs(self, settings: MaskGITSampling) -> dict[str, int]:
        return {"tokens": self._count, "passes": settings.steps}

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; those of the generator."""
        del batch
        return self.model.token_flops()

    def _filled(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: MaskGITSampling
    ) -> Filled:
        check_steps(settings.steps, self._count)
        check_top_k(settings.top_k, self.tokenizer.vocab_size)
        guided = settings.guidance != 1.0
        self._check_guidance(guided)
        collections, labels = self._own(variables), conditions["label"]
        rows = len(labels)
        tokens, open_ = jnp.zeros((rows, self._count), jnp.int32), jnp.ones((rows, self._count), bool)
        if "mask" in conditions:
            tokens = self._tokenizing(variables, conditions["image"], method="tokenize")
            open_ = masked_tokens(conditions["mask"], self._grids)
        without = jnp.full(rows, len(self.classes), labels.dtype)
        asked = jnp.concatenate([labels, without]) if guided else labels

        def guess(tokens: Array, masked: Array, step: Array) -> Float[Array, "B T V"]:
            del step
            both = [jnp.concatenate([x, x]) if guided else x for x in (tokens, masked)]
            logits = self.model.apply(collections, asked, *both)["logits"]
            with_class, without = logits[:rows], logits[rows:]
            return without + settings.guidance * (with_class - without) if guided else with_class

        return fill(guess, tokens, open_, keys, settings)

    def _masks(self, rng: PRNGKeyArray, rows: int) -> Bool[Array, "B T"]:
        """Which tokens of each image are masked."""
        share, order = jax.random.split(rng)
        share = jnp.cos(math.pi / 2 * jax.random.uniform(share, (rows, 1)))
        count = jnp.ceil(self._count * jnp.maximum(share, self.min_mask)).clip(1, self._count)
        turns = jnp.argsort(jax.random.uniform(order, (rows, self._count)), axis=1)
        return turns < count

    def _defaults(self) -> MaskGITSampling:
        """The paper's settings, in fewer passes where there are fewer tokens."""
        return self.sampling(steps=min(self.sampling.steps, self._count))


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    tokenizer: Mapping[str, Any],
    label_drop: Decay = 0.1,
    conditional: bool = True,
    label_smoothing: Share = 0.1,
    min_mask: Share = 0.0,
) -> MaskedGeneration:
    """The task.

    Args:
        model: the section of a `maskgit`; how many tokens and conditions there are is said here.
        tokenizer: section of the tokenizer's model; its parameters come by `init_from={"tokenizer": PATH}`.
        label_drop: share of training examples that are shown without their class, for guidance; 0 as in the paper.
        conditional: whether images are generated of the classes that the data have.
        label_smoothing: see `MaskedGeneration`, like `min_mask`.
    """
    made, size = tokenizer_of(tokenizer, data)
    if made.vocab_size is None:
        raise UserError("The tokenizer's latents are continuous", "Use one with a codebook, such as vqvae")
    if model.get("name") != "maskgit":
        raise UserError(f"The model {model.get('name')!r} does not guess masked tokens of images", "Name maskgit")
    classes = tuple(data.label_names) if conditional else ()
    label_drop = label_drop if classes else 0.0
    module, spec = build_model(
        model,
        vocab_size=made.vocab_size,
        num_tokens=sum(rows * columns for rows, columns in made.grids(size)),
        num_conditions=len(classes) + (label_drop > 0) or 1,
    )
    return MaskedGeneration(module, spec, made, size, classes, label_drop, label_smoothing, min_mask)
