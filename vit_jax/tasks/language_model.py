"""GPT's objective: of each token of a text, how likely it is after those before it.

Radford et al., "Improving language understanding by generative pre-training" (2018), equation 1, and "Language models
are unsupervised multitask learners" (2019). Texts come packed into windows, see the field `packed`, or one a row.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.models.gpt import GPT
from vit_jax.naming import build_model
from vit_jax.nn.decode import Sampling, decode
from vit_jax.nn.multi_head import Cache
from vit_jax.nn.next_token import next_token_losses
from vit_jax.nn.text_trunk import documents_mask
from vit_jax.ranges import Count, NonNegative, Range
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen

# Prompts are padded to a multiple of it, so that those of about the same length share a compiled program.
_PROMPT_STEP = 16


@dataclasses.dataclass(frozen=True)
class TextSampling:
    """How a text goes on; the defaults draw as the model says.

    Args:
        tokens: at most so many new ones.
        temperature: see `vit_jax.nn.decode.Sampling`, like `top_k` and `top_p`.
    """

    tokens: Count = 64
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: Annotated[float, Range(0, 1, open_low=True)] | None = None


@dataclasses.dataclass(frozen=True)
class LanguageModel(Task):
    """Prediction of each token of `batch["text"]` int32 [B, L] but the first, from those before it.

    Where `text_mask` is 0 there is nothing to guess. The scalar is the sum over all tokens that count, divided by
    B (L - 1), so that a token weighs the same in whatever batch it is; with full windows it is the mean.

    Metrics: `loss` in nats a token, `accuracy`, and `bits_per_byte` of UTF-8 where the tokenizer knows its bytes.

    Outputs: `token_losses`, `token_weights` and `token_bytes` [B, L - 1], of the tokens that are guessed; `features`
    [B, D], `tokens` [B, L, D] and `logits` [B, L, V] of the model.

    Args:
        model: see `GPT`.
        model_spec: what rebuilds it from a checkpoint.
        tokenizer: of the texts.
        begin_id: what a prompt begins with, as texts in training do; None for nothing, as in the authors' samples of
            GPT-2.
        separate_documents: tokens see those of their own document alone (`text_documents`).
    """

    model: GPT
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    tokenizer: Tokenizer = dataclasses.field(hash=False)
    begin_id: int | None = None
    separate_documents: bool = False
    sampling: ClassVar[type] = TextSampling

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        params = self.model.init({"params": rng}, batch["text"], train=False)["params"]
        return {"params": self.model.redrawn(params, jax.random.fold_in(rng, 1)), "model_state": {}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        rngs = dict(zip(("dropout", "drop_path"), jax.random.split(rng), strict=True))
        logits = self._run(variables, batch, train=True, rngs=rngs)["logits"]
        losses, weights = self._guessed(batch, logits)
        total, count = losses.sum(), weights.sum()
        right = (logits[:, :-1].argmax(-1) == batch["text"][:, 1:]) * weights
        metrics = {"loss": (total, count), "accuracy": (right.sum(), count)}
        if self._byte_counts is not None:
            metrics["bits_per_byte"] = (total / math.log(2), (self._bytes(batch) * weights).sum())
        return total / losses.size, (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        given = self._run(variables, batch, train=False)
        losses, weights = self._guessed(batch, given["logits"])
        guessed = {"token_losses": losses, "token_weights": weights, "token_bytes": self._bytes(batch)}
        return chosen(names, given | guessed)

    def conditions(self, prompts: Sequence[str], settings: TextSampling) -> dict[str, np.ndarray]:
        """`ids` int32 [N, P] of the prompts, padded, and their `length` [N]."""
        rows, most = [], self.model.text.max_length
        begin = [] if self.begin_id is None else [self.begin_id]
        for i, prompt in enumerate(prompts):
            if not prompt.strip():
                raise UserError(f"Prompt {i + 1} is empty", "Give it at least one character")
            rows.append([*begin, *self.tokenizer.encode(prompt)])
            if len(rows[-1]) >= most:
                raise UserError(
                    f"Prompt {i + 1} has {len(rows[-1])} tokens, which leaves no room in a context of {most}",
                    "Shorten it",
                )
            if len(rows[-1]) + settings.tokens > most:
                raise UserError(
                    f"Prompt {i + 1} has {len(rows[-1])} tokens, after which the context of {most} has room for"
                    f" {most - len(rows[-1])} and not for {settings.tokens}",
                    f"Ask for at most {most - len(rows[-1])} tokens, or shorten it",
                )
        lengths = np.array([len(row) for row in rows], np.int32)
        padded = min(-(-lengths.max() // _PROMPT_STEP) * _PROMPT_STEP, most)
        ids = np.full((len(rows), padded), self._pad_id, np.int32)
        for row, found in zip(ids, rows, strict=True):
            row[: len(found)] = found
        return {"ids": ids, "length": lengths}

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: TextSampling
    ) -> Int[Array, "B tokens"]:
        """New tokens, up to the tokenizer's end with it, and padding after that."""
        ids, last = conditions["ids"], conditions["length"] - 1
        collections, trunk = {"params": variables["params"]}, self.model.text
        cache = trunk.new_cache(ids.shape[0], min(ids.shape[1] + settings.tokens, trunk.max_length))
        _, cache = self.model.apply(collections, ids, cache, 0, method="further")

        def step(ids: Int[Array, " b"], at: Int[Array, " b"], cache: Cache) -> tuple[Float[Array, "b v"], Cache]:
            tokens, cache = self.model.apply(collections, ids[:, None], cache, at, method="further")
            return self.model.apply(collections, tokens[:, 0], method="logits"), cache

        first = jnp.take_along_axis(ids, last[:, None], axis=1)[:, 0]
        how = Sampling(settings.temperature, settings.top_k, settings.top_p)
        return decode(
            step, cache, first, last, length=settings.tokens, keys=keys, sampling=how,
            eos_id=self.tokenizer.eos_id, pad_id=self._pad_id,
        )  # fmt: skip

    def shown(self, samples: Int[np.ndarray, "B tokens"], conditions: Mapping[str, np.ndarray]) -> list[str]:
        """Prompts and how they go on, decoded together: a token may be part of a letter."""
        texts, before = [], int(self.begin_id is not None)
        for prompt, length, ids in zip(conditions["ids"], conditions["length"], samples, strict=True):
            end = np.flatnonzero(ids == self.tokenizer.eos_id)
            ids = ids[: end[0]] if self.tokenizer.eos_id is not None and len(end) else ids
            texts.append(self.tokenizer.decode([*prompt[before:length].tolist(), *ids.tolist()]))
        return texts

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; masked products count as the others."""
        return self.model.text_flops(batch["text"].shape[-1])

    def _run(self, variables: Variables, batch: Batch, **kwargs: Any) -> dict[str, Array]:
        mask = documents_mask(batch["text_documents"]) if self.separate_documents else None
        return self.model.apply({"params": variables["params"]}, batch["text"], mask=mask, **kwargs)

    def _guessed(self, batch: Batch, logits: Float[Array, "B L V"]) -> tuple[Float[Array, "B s"], Float[Array, "B s"]]:
        """What each token but the first cost, and whether it counts. One at a document's start does, from the token
        that stands before documents; that one does, as the end of the document before."""
        return next_token_losses(logits, batch["text"], batch.get("text_mask"))

    @property
    def _pad_id(self) -> int:
        return self.tokenizer.pad_id or 0

    @property
    def _byte_counts(self) -> Int[np.ndarray, " V"] | None:
        counts = getattr(self.tokenizer, "byte_counts", None)
        return None if counts is None else counts()

    def _bytes(self, batch: Batch) -> Float[Array, "B s"]:
        """Bytes of UTF-8 of the tokens that are guessed; 0 where the tokenizer does not know them."""
        ids = batch["text"][:, 1:]
        if self._byte_counts is None:
            return jnp.zeros(ids.shape)
        return jnp.asarray(self._byte_counts, jnp.float32)[ids]


def build(*, model: Mapping[str, Any], data: DataInfo, separate_documents: bool = False) -> LanguageModel:
    """The task.

    Args:
        model: the section of a `gpt`; its `vocab_size` is the tokenizer's.
        separate_documents: see `LanguageModel`; GPT-2 and GPT-3 let tokens see the documents before theirs.
    """
    if "text" not in data.fields:
        raise UserError("A language model reads a field 'text', which the data do not have", "Add config.data.fields")
    field = data.fields["text"]
    if separate_documents and "text_documents" not in field.spec("text"):
        raise UserError(
            "Only packed texts say which document a token is of",
            "Set config.data.fields.text.name=packed, or separate_documents=False",
        )
    module, spec = build_model(model, vocab_size=field.tokenizer.vocab_size)
    tokenizer = field.tokenizer
    # Documents of their own have nothing before them but the token that parts them from others.
    begin = tokenizer.eos_id if separate_documents else tokenizer.bos_id if getattr(field, "bos", False) else None
    return LanguageModel(module, spec, tokenizer, begin, separate_documents)
