"""Classes of texts, of one sentence or a pair: the fine-tuning of BERT (arXiv:1810.04805, section 4.1) and of GPT-1
("Improving language understanding by generative pre-training", section 3.2).

A linear layer on what the model makes of a text: BERT's first token through its pooler, GPT's last token.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.errors import UserError
from vit_jax.naming import build_model, named_module
from vit_jax.nn.classification_loss import probabilities
from vit_jax.nn.next_token import next_token_losses
from vit_jax.nn.text_trunk import TextTrunk
from vit_jax.ranges import Decay, NonNegative
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Ranked, Task, Variables, chosen
from vit_jax.tasks._text import options_of, text_outputs, tokenizer_of

_STDDEV = 0.02


@dataclasses.dataclass(frozen=True)
class ClassifyText(Task):
    """Classification of `batch["text"]` int32 [B, L] into `batch["label"]` int32 [B].

    Parameters: those of the model, and `head` with kernel [D, K] and bias.

    Args:
        model: a text model, which gives `features` [B, D]; a language model gives `logits` [B, L, V] too.
        model_spec: what rebuilds it from a checkpoint.
        num_classes: K.
        dropout_rate: of the features in training.
        auxiliary_lm: what the loss of the language model, the mean over the tokens of each text, is multiplied by
            before it is added (GPT-1: 0.5); 0 for none.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    num_classes: int
    dropout_rate: float = 0.1
    auxiliary_lm: float = 0.0
    answered_by: ClassVar[tuple[str, ...]] = ("logits",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        options = options_of(self.model, batch)
        params = self.model.init({"params": rng}, batch["text"], **options)["params"]
        params = self.model.redrawn(params, jax.random.fold_in(rng, 1))
        features = jnp.zeros((1, self.model.text.width))
        head = self._head.init({"params": jax.random.fold_in(rng, 2)}, features)["params"]
        return {"params": {**params, "head": head}, "model_state": {}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        head_key, *keys = jax.random.split(rng, 3)
        rngs = dict(zip(("dropout", "drop_path"), keys, strict=True))
        found = self._apply(variables, batch, train=True, rngs=rngs)
        dropout = nn.Dropout(self.dropout_rate, deterministic=False)
        logits = self._logits(variables, dropout.apply({}, found["features"], rngs={"dropout": head_key}))
        label, size = batch["label"], jnp.float32(logits.shape[0])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        right = (logits.argmax(-1) == label).sum(dtype=jnp.float32)
        metrics = {"loss": (losses.sum(), size), "accuracy": (right, size)}
        loss = losses.mean()
        if self.auxiliary_lm:
            costs, weights = next_token_losses(found["logits"], batch["text"], batch["text_mask"])
            of_text = costs.sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)
            metrics["language_loss"] = (of_text.sum(), size)
            loss = loss + self.auxiliary_lm * of_text.mean()
        return loss, (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """`tokens [B, L, D]`, `features [B, D]`, `logits [B, K]`, and `last_layers_token` and `last_layers_mean
        [B, 4 D]`, see `vit_jax.tasks._text.text_outputs`."""
        del rng
        given = text_outputs(self.model, variables["params"], batch)
        return chosen(names, given | {"logits": self._logits(variables, given["features"])})

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[Answer]:
        rows = np.asarray(probabilities(outputs["logits"], self.objective))
        names = fields["label"].names or tuple(map(str, range(self.num_classes)))
        return [Ranked(names, row) for row in rows]

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`: of one text, with the logits of a language model where its loss is taken."""
        length = batch["text"].shape[-1]
        return self.model.text_flops(length) if self.auxiliary_lm else self.model.text.flops(length)

    def _apply(self, variables: Variables, batch: Batch, **options: Any) -> dict[str, Array]:
        options |= options_of(self.model, batch)
        return self.model.apply({"params": variables["params"]}, batch["text"], **options)

    @property
    def _head(self) -> nn.Dense:
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.truncated_normal(_STDDEV))

    def _logits(self, variables: Variables, features: Float[Array, "B D"]) -> Float[Array, "B K"]:
        return self._head.apply({"params": variables["params"]["head"]}, features)


def build(
    *, model: Mapping[str, Any], data: DataInfo, dropout_rate: Decay = 0.1, auxiliary_lm: NonNegative = 0.0
) -> ClassifyText:
    """The task for the classes that the data names.

    Args:
        model: the section of a text model; the size of its vocabulary is that of the data's tokenizer.
        dropout_rate: see `ClassifyText`, like `auxiliary_lm`.

    Raises:
        UserError: for data without tokens or classes, a model that reads no texts, and `auxiliary_lm` with one that is
            no language model.
    """
    tokenizer = tokenizer_of(data)
    if len(data.label_names) < 2:
        raise UserError("The data names no classes of texts", "Use a source with the field 'label'")
    name = (model or {}).get("name")
    if name is not None and "vocab_size" not in getattr(named_module("model", name), "KEYS", ()):
        raise UserError(f"The model {name!r} reads no texts", "Set config.model.name=bert or gpt")
    module, spec = build_model(model, vocab_size=tokenizer.vocab_size)
    if not isinstance(getattr(module, "text", None), TextTrunk):
        raise UserError(f"The model {name!r} makes no features of a text", "Set config.model.name=bert or gpt")
    if auxiliary_lm and module.text.mask != "causal":
        raise UserError(f"The model {name!r} is no language model", "Set config.task.auxiliary_lm=0")
    return ClassifyText(module, spec, len(data.label_names), dropout_rate, auxiliary_lm)
