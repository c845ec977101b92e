"""Translation: Vaswani et al., "Attention is all you need" (arXiv:1706.03762).

The decoder is given the right translation up to each token and guesses the next one (teacher forcing), with the targets
smoothed (section 5.4). Translations are searched for with beams and a length penalty (section 6.1).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vit_jax.data.fields.tokens import Tokens
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.models.transformer import Transformer
from vit_jax.naming import build_model
from vit_jax.nn.decode import beam_search
from vit_jax.ranges import Count, NonNegative, Share
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen, in_training


def shifted(ids: Int[Array, "B T"], start: int) -> Int[Array, "B T"]:
    """What the decoder is given where `ids` are what it has to say: the start, and all but the last."""
    return jnp.concatenate([jnp.full_like(ids[:, :1], start), ids[:, :-1]], axis=1)


def token_losses(logits: Float[Array, "B T V"], ids: Int[Array, "B T"], smoothing: float = 0.0) -> Float[Array, "B T"]:
    """Cross-entropy of each token in nats; the targets give 1 - smoothing to the right token and the rest to all V
    alike ("Rethinking the Inception architecture", arXiv:1512.00567, section 7)."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))
    right = jnp.take_along_axis(logs, ids[..., None], axis=-1)[..., 0]
    return -(1 - smoothing) * right - smoothing * logs.mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a translation is searched for.

    Args:
        beams: 1 takes the most probable token each time.
        alpha: strength of the length penalty, see `vit_jax.nn.decode.length_penalty`.
        tokens: the most that a translation may have; None for as many as the field holds.
    """

    beams: Count = 4
    alpha: NonNegative = 0.6
    tokens: Count | None = None


@dataclasses.dataclass(frozen=True)
class Translate(Task):
    """From `batch["source"]` int32 [B, S] to `batch["target"]` int32 [B, T], each with a mask of its tokens.

    The loss is the mean over the tokens of a batch's targets, so that all weigh alike.

    Args:
        model: the encoder-decoder.
        model_spec: what rebuilds it from a checkpoint.
        source, target: the fields, of one tokenizer. Where targets start with no token that says so, the decoder is
            given padding first, as Marian does.
        label_smoothing: see `token_losses`.
    """

    model: Transformer
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    source: Tokens = dataclasses.field(hash=False)
    target: Tokens = dataclasses.field(hash=False)
    label_smoothing: float = 0.1
    sampling: ClassVar[type] = Settings
    whole_batch: ClassVar[str] = "its loss is a mean over the batch's tokens, of which a part may have more or fewer"

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        params = self.model.init({"params": rng}, batch["source"], batch["target"], batch["source_mask"])["params"]
        return {"params": self.model.redrawn(params, jax.random.fold_in(rng, 1)), "model_state": {}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        given, wanted, counted = self._forced(batch)
        found, state = in_training(
            self.model, variables["params"], variables["model_state"], jax.random.split(rng),
            batch["source"], given, batch["source_mask"],
        )  # fmt: skip
        weight = counted.astype(jnp.float32)
        count = weight.sum()
        losses = token_losses(found["logits"], wanted, self.label_smoothing) * weight
        plain = token_losses(found["logits"], wanted) * weight
        right = (found["logits"].argmax(-1) == wanted) * weight
        metrics = {
            "loss": (losses.sum(), count),
            "nats_per_token": (plain.sum(), count),
            "token_accuracy": (right.sum(), count),
        }
        return losses.sum() / jnp.maximum(count, 1), (metrics, state)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """`samples [B, T]` are translations with the default settings, `greedy [B, T]` with one beam; `features [B, D]`
        the mean of the source's tokens; and of the right translation `logits [B, T, V]`, `token_losses [B, T]` in nats
        and `counted [B, T]`, which tokens have one."""

        @functools.cache
        def forced() -> tuple[Array, Array, Array]:
            given, wanted, counted = self._forced(batch)
            call = (batch["source"], given, batch["source_mask"])
            return self.model.apply({"params": variables["params"]}, *call)["logits"], wanted, counted

        def features() -> Array:
            return self.model.apply(
                {"params": variables["params"]}, batch["source"], batch["source_mask"], method="source_features"
            )

        given = {
            "samples": lambda: self.sample(variables, batch, rng, Settings()),
            "greedy": lambda: self.sample(variables, batch, rng, Settings(beams=1)),
            "features": features,
            "logits": lambda: forced()[0],
            "token_losses": lambda: token_losses(*forced()[:2]),
            "counted": lambda: forced()[2],
        }
        return chosen(names, given)

    def conditions(self, prompts: Sequence[str], settings: Settings) -> dict[str, np.ndarray]:
        """The texts to translate as the field of sources holds them: `source` [N, S] and `source_mask` [N, S]."""
        del settings
        rows = []
        for i, text in enumerate(prompts):
            where = f"Text {i + 1}"
            if not text.strip():
                raise UserError(f"{where} is empty", "Give it at least one character")
            rows.append(self.source.batched("source", self.source.read(text, where, None)))
        return {name: np.stack([row[name] for row in rows]) for name in ("source", "source_mask")}

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: Settings
    ) -> Int[Array, "B tokens"]:
        """The best translation of each `source` that a search finds, with padding after its end. Nothing is drawn, so
        `keys` change nothing."""
        del keys
        length = settings.tokens or self.target.length
        source, mask = conditions["source"], conditions["source_mask"]
        apply = functools.partial(self.model.apply, {"params": variables["params"]})
        rows = source.shape[0]
        memory = apply(source, mask, method="encode")
        first = jnp.full(rows, self._start, jnp.int32)
        at = jnp.zeros(rows, jnp.int32)
        cache = self.model.text.new_cache(rows, length, source.shape[1])
        _, cache = apply(first[:, None], memory, mask, cache, 0, method="step")
        seen = jnp.repeat(mask, settings.beams, axis=0)

        def step(ids: Array, at: Array, cache: Any) -> tuple[Array, Any]:
            logits, cache = apply(ids[:, None], None, seen, cache, at, method="step")
            return logits[:, 0], cache

        ids, _ = beam_search(
            step, cache, first, at, length=length, beams=settings.beams, alpha=settings.alpha,
            eos_id=self._tokenizer.eos_id, pad_id=self._tokenizer.pad_id,
        )  # fmt: skip
        return ids[:, 0]

    def shown(self, samples: Int[np.ndarray, "B tokens"], conditions: Mapping[str, np.ndarray]) -> list[str]:
        """The translations as text."""
        return [self.target.text(ids) for ids in samples]

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`: of one pair, padding included."""
        return self.model.text.flops(batch["source"].shape[-1], batch["target"].shape[-1])

    @property
    def _tokenizer(self) -> Tokenizer:
        return self.target.tokenizer

    @property
    def _start(self) -> int:
        """What the decoder is given first."""
        return self._tokenizer.bos_id if self.target.bos else self._tokenizer.pad_id

    def _forced(self, batch: Batch) -> tuple[Int[Array, "B T"], Int[Array, "B T"], Bool[Array, "B T"]]:
        """What the decoder is given, what it has to say, and where that counts."""
        ids, mask = batch["target"], batch["target_mask"].astype(bool)
        if self.target.bos:
            return ids[:, :-1], ids[:, 1:], mask[:, 1:]
        return shifted(ids, self._start), ids, mask


def build(*, model: Mapping[str, Any], data: DataInfo, label_smoothing: Share = 0.1) -> Translate:
    """The task; the default is the paper's.

    Args:
        model: the section of a `transformer`, without `vocab_size`.
        label_smoothing: share of the targets that goes to all tokens alike.

    Raises:
        UserError: without fields "source" and "target" of tokens, or with tokenizers that differ: one matrix embeds
            both.
    """
    fields = {name: data.fields.get(name) for name in ("source", "target")}
    for name, field in fields.items():
        if not isinstance(field, Tokens):
            raise UserError(
                f"A translation reads a field {name!r} of tokens, which the data does not have",
                f"Set config.data.fields.{name} with the name 'tokens'",
            )
    target, tokenizer = fields["target"], fields["target"].tokenizer
    if _numbering(fields["source"].tokenizer) != _numbering(tokenizer):
        raise UserError(
            "Source and target have different tokenizers, and one matrix embeds both", "Use one that was made on both"
        )
    if not target.eos or tokenizer.eos_id is None:
        raise UserError("The targets of a translation do not say where they end", "Set eos=True for the field 'target'")
    module, spec = build_model(model, vocab_size=tokenizer.vocab_size)
    return Translate(module, spec, fields["source"], target, label_smoothing)


def _numbering(tokenizer: Tokenizer) -> Any:
    """What two tokenizers that give the same tokens the same numbers have in common."""
    return getattr(tokenizer, "numbering", tokenizer)
