"""BERT's pretraining: Devlin et al., "BERT: pre-training of deep bidirectional Transformers for language understanding"
(arXiv:1810.04805).

15 % of the tokens are hidden and guessed from both sides, and the first token says whether the second half of a text
follows the first. The loss is the mean cross-entropy of the guesses plus that of the answers (appendix A.2).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.models.bert import Bert
from vit_jax.naming import build_model
from vit_jax.nn.token_masking import Corrupted, corrupted
from vit_jax.ranges import Count, Share
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen, example_keys
from vit_jax.tasks._text import options_of, text_outputs, tokenizer_of

_SPECIAL = ("pad_id", "bos_id", "eos_id", "cls_id", "sep_id", "mask_id")


def pretraining_loss(
    masked_logits: Float[Array, "B P V"],
    text: Corrupted,
    next_logits: Float[Array, "B 2"] | None = None,
    label: Int[Array, " B"] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The mean over all tokens that were chosen in the batch, plus, with a label, the mean over the texts; in nats.

    Args:
        masked_logits: at the places of `text`.
        next_logits: of the two answers.
        label: 0 where the second half follows the first, 1 where it comes from elsewhere.
    """
    guesses = optax.softmax_cross_entropy_with_integer_labels(masked_logits, text.targets) * text.chosen
    right = (masked_logits.argmax(-1) == text.targets) * text.chosen
    count = text.chosen.sum()
    loss = guesses.sum() / jnp.maximum(count, 1)
    metrics = {"masked_loss": (guesses.sum(), count), "masked_accuracy": (right.sum(), count)}
    if label is not None:
        answers = optax.softmax_cross_entropy_with_integer_labels(next_logits, label)
        size = jnp.float32(label.size)
        loss = loss + answers.mean()
        metrics["next_loss"] = (answers.sum(), size)
        metrics["next_accuracy"] = ((next_logits.argmax(-1) == label).sum(dtype=jnp.float32), size)
    return loss, {"loss": (loss, jnp.float32(1)), **metrics}


@dataclasses.dataclass(frozen=True)
class BertPretraining(Task):
    """Guessing hidden tokens of `batch["text"]` int32 [B, L], and with `next_sentence` whether its halves belong
    together: `batch["label"]` int32 [B].

    The mean over the hidden tokens of a batch weighs all of them alike, as in the authors' code; short texts have few.

    Args:
        model: with a head for hidden tokens, and one for the next sentence where it is learned.
        model_spec: what rebuilds it from a checkpoint.
        tokenizer: of the field.
        mask_share: of the tokens that are neither special nor padding, how many are chosen to be guessed.
        predictions: the most that are chosen in a text; None for the share of its full length, rounded up: 20 of 128
            and 77 of 512.
        whole_words: choose words as a whole instead of single tokens (the authors' later models).
        next_sentence: learn whether the second half of a text follows the first.
    """

    model: Bert
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    tokenizer: Tokenizer
    mask_share: float = 0.15
    predictions: int | None = None
    whole_words: bool = False
    next_sentence: bool = True
    whole_batch: ClassVar[str] = (
        "its loss is a mean over the batch's hidden tokens, of which a part may have more or fewer"
    )

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        params = self.model.init({"params": rng}, batch["text"], **options_of(self.model, batch))["params"]
        return {"params": self.model.redrawn(params, jax.random.fold_in(rng, 1)), "model_state": {}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        masking, dropout, drop_path = jax.random.split(rng, 3)
        text = self._corrupted(batch, jax.random.split(masking, batch["text"].shape[0]))
        found = self._guessed(variables, batch, text, train=True, rngs={"dropout": dropout, "drop_path": drop_path})
        label = batch["label"] if self.next_sentence else None
        loss, metrics = pretraining_loss(found["masked_logits"], text, found.get("next_logits"), label)
        return loss, (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """Of the text as it is: `tokens [B, L, D]`, `features [B, D]`, `logits [B, 2]` (the next sentence), and
        `last_layers_token` and `last_layers_mean [B, 4 D]`, see `vit_jax.tasks._text.text_outputs`. Of the text with
        hidden tokens: `masked_logits [B, P, V]`, `masked_targets` and `masked_chosen [B, P]`, and
        `masked_next_logits [B, 2]`."""
        del rng
        # By the example alone, not by the seed of the run: all runs are asked for the same tokens.
        text = self._corrupted(batch, example_keys(0, batch))
        given = text_outputs(self.model, variables["params"], batch)
        guessed = functools.cache(lambda: self._guessed(variables, batch, text))
        given |= {
            "masked_logits": lambda: guessed()["masked_logits"],
            "masked_targets": text.targets,
            "masked_chosen": text.chosen,
        }
        if self.next_sentence:
            given |= {"logits": given.pop("next_logits"), "masked_next_logits": lambda: guessed()["next_logits"]}
        return chosen(names, given)

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`: of one text, with as many guesses as there may be."""
        length = batch["text"].shape[-1]
        return self.model.text_flops(length, min(self._most(length), length))

    def _most(self, length: int) -> int:
        return self.predictions or math.ceil(self.mask_share * length)

    def _guessed(self, variables: Variables, batch: Batch, text: Corrupted, **options: Any) -> dict[str, Array]:
        options |= options_of(self.model, batch)
        return self.model.apply({"params": variables["params"]}, text.ids, places=text.places, **options)

    def _corrupted(self, batch: Batch, keys: PRNGKeyArray) -> Corrupted:
        """The texts with tokens that have to be guessed; `keys` [B]."""
        ids = batch["text"]
        special = [i for name in _SPECIAL if (i := getattr(self.tokenizer, name, None)) is not None]
        candidates = (batch["text_mask"] > 0) & ~jnp.isin(ids, jnp.asarray(sorted(set(special)), ids.dtype))
        starts = ~jnp.asarray(_continues(self.tokenizer))[ids] if self.whole_words else None
        return corrupted(
            keys,
            ids,
            candidates,
            share=self.mask_share,
            most=self._most(ids.shape[1]),
            mask_id=self.tokenizer.mask_id,
            vocab_size=self.tokenizer.vocab_size,
            starts=starts,
        )


def _continues(tokenizer: Tokenizer) -> np.ndarray | None:
    """Of each id whether it goes on a word; None from a tokenizer that cannot say."""
    continues = getattr(tokenizer, "continues", None)
    return None if continues is None else np.asarray(continues, bool)


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    mask_share: Share = 0.15,
    predictions: Count | None = None,
    whole_words: bool = False,
    next_sentence: bool = True,
) -> BertPretraining:
    """The task; the defaults are the paper's.

    Args:
        model: the section of a `bert`; its heads and the size of its vocabulary are the task's to say.
        mask_share: see `BertPretraining`, like `predictions`, `whole_words` and `next_sentence`.

    Raises:
        UserError: for data without tokens or without a label for the next sentence, a tokenizer without a mask or
            without words, and a model that is no BERT.
    """
    tokenizer = tokenizer_of(data)
    if getattr(tokenizer, "mask_id", None) is None:
        raise UserError(
            "This tokenizer has no token that stands for a hidden one", "Use one with a mask, such as 'wordpiece'"
        )
    if whole_words and _continues(tokenizer) is None:
        raise UserError("This tokenizer does not say where words start", "Set config.task.whole_words=False")
    if next_sentence and "label" not in data.fields:
        raise UserError(
            "Learning the next sentence needs the field 'label', which the data does not have",
            "Set config.data.fields.label, or config.task.next_sentence=False",
        )
    if not mask_share:
        raise UserError("A mask_share of 0 leaves nothing to guess", "Set it above 0, in the paper 0.15")
    name = (model or {}).get("name", "bert")
    if name != "bert":
        raise UserError(f"The model {name!r} is no BERT", "Set config.model.name=bert")
    module, spec = build_model(
        model, vocab_size=tokenizer.vocab_size, masked_language=True, next_sentence=next_sentence
    )
    return BertPretraining(module, spec, tokenizer, mask_share, predictions, whole_words, next_sentence)
