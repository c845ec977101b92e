"""The words of a caption, in no order, guessed from the image: Joulin et al., "Learning visual features from large
weakly supervised data" (arXiv:1511.02251), a baseline of CLIP's (arXiv:2103.00020, figure 2).

Each token of the vocabulary is a class, of which an image has as many as its caption has different tokens. "softmax" is
the paper's multi-class logistic loss, of which each of n words gets a share of 1 / n; "sigmoid" its one-versus-all loss
without weights, which takes every word by itself. Words are tokens: with `bpe`, `clip_bpe` and `wordpiece` a common
word is one, and a rare one several. The paper draws examples uniformly by words, so that common ones do not prevail;
here they are drawn by images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.nn.classification_loss import probabilities
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Ranked, Variables
from vit_jax.tasks._text import tokenizer_of
from vit_jax.tasks.classify import Classify


@dataclasses.dataclass(frozen=True, kw_only=True)
class BagOfWords(Classify):
    """Classification of `batch["image"]` into the tokens of `batch["text"]` int32 [B, L], see `Classify`.

    Its outputs are those of the image; `accuracy` is how often the likeliest token is in the caption.

    Args:
        tokenizer: of the captions. Its start, end and padding are no words.
    """

    tokenizer: Tokenizer = dataclasses.field(hash=False)
    mixed_labels: ClassVar[bool] = False  # images could be mixed, texts not

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        words = self._words(batch["text"], batch["text_mask"])
        return super().loss(variables, {**batch, "label": words}, rng, step)

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[Answer]:
        names = [self.tokenizer.decode([i]).strip() or str(i) for i in range(self.num_classes)]
        return [Ranked(names, row) for row in np.asarray(probabilities(outputs["logits"], self.objective))]

    def _words(self, ids: Int[Array, "B L"], mask: Array) -> Float[Array, "B V"]:
        """1 for each token that is in a caption."""
        special = [i for i in (self.tokenizer.bos_id, self.tokenizer.eos_id) if i is not None]
        real = mask.astype(bool) & ~jnp.isin(ids, jnp.array(special, jnp.int32))
        rows = jnp.arange(ids.shape[0])[:, None]
        return jnp.zeros((ids.shape[0], self.num_classes)).at[rows, ids].max(real.astype(jnp.float32))


def build(
    *, model: Mapping[str, Any], data: DataInfo, objective: Literal["softmax", "sigmoid"] = "softmax"
) -> BagOfWords:
    """The task for the tokens of the field "text".

    Args:
        model: the section of an image model, with a head for as many classes as there are tokens.
        objective: see above.

    Raises:
        UserError: for data without images or without a field "text" of tokens.
    """
    tokenizer = tokenizer_of(data)
    if data.image_size is None:
        raise UserError("This task guesses words from images, and the data has none", "Set config.data.image_size")
    module, spec = build_model(model, num_classes=tokenizer.vocab_size)
    return BagOfWords(
        model=module, model_spec=spec, num_classes=tokenizer.vocab_size, objective=objective, tokenizer=tokenizer
    )
