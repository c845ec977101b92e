"""Translations beside those of a person: BLEU, chrF, and how many are right word for word."""

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory


@dataclasses.dataclass(frozen=True)
class Translation:
    """`bleu` (corpus, 13a tokens, as WMT reports it) and `chrf` (chrF2), both in percent and as sacreBLEU computes
    them, the share that is `exact`, and the number of `examples`.

    The right translations are the texts of the source, not what its tokens say. Files: `translations.jsonl`.

    Args:
        pipeline: pairs with the fields "source" and "target".
        output: of the task, the translations as token ids.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    output: str = "samples"

    def check(self) -> None:
        if importlib.util.find_spec("sacrebleu") is None:
            raise UserError(
                "The evaluator 'translation' needs sacreBLEU, which is not installed",
                "pip install 'vit_jax[translation]'",
            )
        for name in ("source", "target"):
            if name not in self.pipeline.fields:
                raise UserError(f"There is no field {name!r} to translate", f"Set config.data.fields.{name}")

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        return {"index": batch["index"], "valid": batch["valid"], "ids": apply(batch, (self.output,))[self.output]}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        import sacrebleu  # half a second

        field, rows = self.pipeline.fields["target"], []
        for part in run(self.pipeline):
            for index, ids in zip(part["index"][part["valid"] > 0], part["ids"][part["valid"] > 0], strict=True):
                example = self.pipeline.source[int(index)]
                rows.append((_text(example["source"]), _text(example["target"]), field.text(ids)))
        references, found = [row[1] for row in rows], [row[2] for row in rows]

        def lines() -> bytes:
            kept = ({"source": s, "target": t, "translation": f} for s, t, f in rows)
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode()

        run.keep("translations.jsonl", lines)
        return {
            "bleu": sacrebleu.corpus_bleu(found, [references]).score,
            "chrf": sacrebleu.corpus_chrf(found, [references]).score,
            "exact": float(np.mean([a == b for a, b in zip(references, found, strict=True)])),
            "examples": float(len(rows)),
        }


def _text(raw: Any) -> str:
    """Of several right translations the first, as evaluation reads them."""
    raw = raw[0] if isinstance(raw, list | tuple) else raw
    return raw.decode("utf-8") if isinstance(raw, bytes) else raw


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None, output: str = "samples") -> Translation:
    """Evaluates on `source`, or on the config's `data.eval`; with `output="greedy"` on translations without beams."""
    return Translation(pipeline(source=source), output)
