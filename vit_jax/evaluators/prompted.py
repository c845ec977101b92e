"""Classes of texts by a language model that was not trained for them: zero- and few-shot, by prompt.

Brown et al., "Language models are few-shot learners" (arXiv:2005.14165), section 2.4: k examples of a training set
stand before the text, and the answer is the class whose name is most likely to come next, a token of it on average.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Int32

from vit_jax.data.field import Field, Plane, Spec
from vit_jax.data.fields import Fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.seeds import some_of
from vit_jax.data.source import Source
from vit_jax.data.text import as_text, padded_ids
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory
from vit_jax.naming import build_named
from vit_jax.ranges import Count, Natural

_TEXT, _LABEL = "{text}", "{label}"


@dataclasses.dataclass(frozen=True)
class Form:
    """How an example is written.

    Args:
        template: with {text}, and {label} at its end.
        separator: between examples.
        cut: letters of a text after which it is cut off; None for whole texts.
    """

    template: str
    separator: str
    cut: int | None

    def __post_init__(self):
        if _TEXT not in self.template or not self.template.endswith(_LABEL) or self.template.count(_LABEL) > 1:
            raise UserError(
                f"The template {self.template!r} cannot ask for a class", "Write {text} in it, and {label} at its end"
            )

    def parts(self, text: str) -> tuple[str, str]:
        """What stands before the class, and the spaces between, which byte pairs take as part of its first word."""
        before = self.template.removesuffix(_LABEL).replace(_TEXT, text[: self.cut])
        kept = before.rstrip(" ")
        return kept, before[len(kept) :]


class Prompts:
    """Each example of a source with each class in turn: row i * K + k says class k after example i."""

    label_names = ()

    def __init__(
        self,
        tests: Source,
        shots: Source | None,
        k: int,
        seed: int,
        names: Sequence[str],
        form: Form,
        tokenizer: Tokenizer,
    ):
        self._tests, self._shots, self._k, self._seed = tests, shots, k, seed
        self._names, self._form, self._tokenizer = tuple(names), form, tokenizer
        self.field_names = frozenset({"text"})

    def __len__(self) -> int:
        return len(self._tests) * len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example, answer = divmod(int(index), len(self._names))
        before = [self._shot(self._shots[i]) for i in self._drawn(example)]
        kept, spaces = self._form.parts(as_text(self._tests[example]["text"], f"Example {example}"))
        prompt = self._tokenizer.encode(self._form.separator.join([*before, kept]))
        ids = [*prompt, *self._tokenizer.encode(spaces + self._names[answer])]
        return {"text": (np.array(ids, np.int32), len(prompt)), "path": f"Example {example}"}

    def _drawn(self, example: int) -> list[int]:
        """Which training examples stand before it: others before others, the same in every evaluation."""
        return some_of(len(self._shots), self._k, self._seed, example) if self._k else []

    def _shot(self, example: Mapping[str, Any]) -> str:
        return "".join(self._form.parts(as_text(example["text"], "A shot"))) + self._names[int(example["label"])]


@dataclasses.dataclass(frozen=True)
class Answered(Field):
    """Tokens of a prompt and an answer, of which `text_mask` names the answer's: those count in the loss."""

    length: int
    pad_id: int

    def spec(self, name: str) -> dict[str, Spec]:
        return {name: Spec((self.length,), "int32"), f"{name}_mask": Spec((self.length,), "bool", 2)}

    def read(self, raw: Any, where: str, plane: Plane | None) -> Any:
        return raw

    def batched(self, name: str, value: tuple[Int32[np.ndarray, " n"], int]) -> dict[str, Any]:
        ids, first = value
        places = np.arange(self.length)
        return {
            name: padded_ids(ids, self.length, self.pad_id),
            f"{name}_mask": (places >= first) & (places < len(ids)),
        }


@dataclasses.dataclass(frozen=True)
class Prompted:
    """`accuracy`, and the number of `examples`.

    Args:
        pipeline: of `Prompts`.
        labels: of the examples.
        per_token: a class is as likely as its tokens are on average; False adds them up, which favours short names.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    labels: tuple[int, ...] = dataclasses.field(hash=False)
    per_token: bool = True

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        out = apply(batch, ("token_losses", "token_weights"))
        scores = -(out["token_losses"] * out["token_weights"]).sum(axis=1)
        if self.per_token:
            scores = scores / out["token_weights"].sum(axis=1)
        return {"index": batch["index"], "valid": batch["valid"], "score": scores}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        scores = np.empty(len(self.pipeline.source), np.float32)
        for part in run(self.pipeline):
            kept = part["valid"] > 0
            scores[part["index"][kept]] = part["score"][kept]
        answers = scores.reshape(len(self.labels), -1).argmax(axis=1)
        return {"accuracy": float((answers == np.array(self.labels)).mean()), "examples": len(self.labels)}


def build(
    pipeline: PipelineFactory,
    source: Mapping[str, Any],
    train: Mapping[str, Any] | None = None,
    shots: Natural = 0,
    template: str = "Text: {text}\nLabel: {label}",
    separator: str = "\n\n",
    label_texts: Sequence[str] | None = None,
    cut: Count | None = None,
    per_token: bool = True,
    seed: Natural = 0,
) -> Prompted:
    """Classes of the texts of a source.

    Args:
        source: section of a source of texts with labels.
        train: section of the one that shots come from.
        shots: examples in the prompt; 0 for zero-shot.
        template: how an example is written, with {text}, and {label} at its end.
        separator: between examples.
        label_texts: what classes are called in prompts, in their order; by default by their names.
        cut: letters of a text after which it is cut off, so that prompts fit into the context; None for whole texts.
        per_token: see `Prompted`.
        seed: of the draw of shots.

    Raises:
        UserError: when texts, labels, classes or shots are missing.
    """
    form, tests = Form(template, separator, cut), _labelled(source, "source")
    if shots and train is None:
        raise UserError(f"There is nothing to take {shots} shots from", "Give the evaluator a section 'train'")
    drawn_from = _labelled(train, "train") if shots else None
    if drawn_from is not None and tuple(drawn_from.label_names) != tuple(tests.label_names):
        raise UserError("The shots have other classes than the test", "Give both sources the same label_names")
    if drawn_from is not None and len(drawn_from) < shots:
        raise UserError(f"{shots} shots do not come out of {len(drawn_from)} examples", "Ask for fewer")
    names = tuple(tests.label_names if label_texts is None else label_texts)
    if len(names) != len(tests.label_names) or len(names) < 2 or not all(names):
        raise UserError(
            f"{len(names)} names do not tell {len(tests.label_names)} classes apart", "Name each of two or more"
        )
    data = pipeline(source=source)
    if "text" not in data.fields:
        raise UserError("A prompt needs a field 'text'", "Add config.data.fields.text")
    tokenizer = data.fields["text"].tokenizer
    prompts = Prompts(tests, drawn_from, shots, seed, names, form, tokenizer)
    length = max(len(prompts[i]["text"][0]) for i in range(len(prompts)))
    kind = Answered(length, tokenizer.pad_id or 0)
    rows = EvalPipeline(prompts, None, data.batch_size, num_threads=0, fields=Fields({"text": kind}))
    return Prompted(rows, tuple(int(tests[i]["label"]) for i in range(len(tests))), per_token)


def _labelled(section: Mapping[str, Any], name: str) -> Source:
    source = build_named("source", section, f"config.evals.{name}")
    if not {"text", "label"} <= set(source.field_names):
        raise UserError(f"The section '{name}' gives no texts with labels", "Name a source that has both")
    if not len(source):
        raise UserError(f"The section '{name}' has no examples", "Check its paths")
    return source
