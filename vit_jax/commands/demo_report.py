"""What the demo found: its summary, its table, and its report, one HTML file that can be mailed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.checkpoints.load import load
from vit_jax.commands import figures, page
from vit_jax.data.drawing import image_png
from vit_jax.data.sources import digits
from vit_jax.nn.classification_loss import probabilities
from vit_jax.nn.posemb import interpolate_posemb
from vit_jax.training.metrics import read_metrics

_SAMPLES = 24


def summarise(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`summary.json`: accuracies in [0, 1], few-shot ones by the number of shots, image sizes before and after."""
    pretrain = results["pretrain"]
    return {
        "pretrain_accuracy": pretrain["val/accuracy"],
        "fewshot_accuracy": {str(k): pretrain[f"fewshot/{k}shot"] for k in shots(pretrain)},
        "fewshot_pixels": {str(k): pretrain[f"pixels/{k}shot"] for k in shots(pretrain)},
        "finetune_accuracy": results["finetune"]["val/accuracy"],
        "scratch_accuracy": results["scratch"]["val/accuracy"],
        "image_size": [16, 32],
    }


def shots(pretrain: Mapping[str, Any]) -> list[int]:
    """The numbers of shots that the probe was run with."""
    names = (k.removeprefix("fewshot/") for k in pretrain if k.startswith("fewshot/"))
    return sorted(int(n.removesuffix("shot")) for n in names if n.endswith("shot"))


def result_rows(results: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table of the terminal and of the report: header and rows."""
    pretrain = results["pretrain"]

    def mean(kind: str, k: int) -> str:
        return f"{pretrain[f'{kind}/{k}shot']:.1%} ± {pretrain[f'{kind}/{k}shot_std']:.1%}"

    header = ["held-out accuracy", "ViT", "baseline", "the baseline is"]
    rows = [["pretraining, digits 0-6, 16x16", f"{pretrain['val/accuracy']:.1%}", "", ""]]
    rows += [
        [f"{k}-shot on the unseen digits 7-9", mean("fewshot", k), mean("pixels", k), "raw pixels"]
        for k in shots(pretrain)
    ]
    accuracies = [f"{results[k]['val/accuracy']:.1%}" for k in ("finetune", "scratch")]
    return header, [*rows, ["fine-tuning, digits 0-9, 32x32", *accuracies, "the same from scratch"]]


def write_report(
    workdir: Path, rows: tuple[Sequence[str], Sequence[Sequence[str]]], results: Mapping[str, Any], seconds: float
) -> None:
    """Writes `report.html` into the demo's workdir."""
    header, body = rows
    pretrain = results["pretrain"]
    probes = {
        label: {k: (pretrain[f"{kind}/{k}shot"], pretrain[f"{kind}/{k}shot_std"]) for k in shots(pretrain)}
        for kind, label in (("fewshot", "ViT features"), ("pixels", "raw pixels"))
    }
    parts = [
        page.paragraph(
            "A Vision Transformer pretrained on the handwritten digits 0 to 6, probed on 7 to 9, and fine-tuned on all "
            f"ten at twice the resolution. {seconds:.0f} seconds in all."
        ),
        page.html_table(header, body),
        page.paragraph(
            "Few-shot rows: mean and standard deviation over three draws of the labelled examples. Their images are "
            "rotated and shifted like those of training, for the probe and for the pixels alike."
        ),
        page.heading("Learning curves"),
        page.figure(
            figures.curves(_curves(workdir)), "Left: pretraining. Right: fine-tuning and the same from scratch."
        ),
        page.heading("Few-shot probe on classes it never saw"),
        page.figure(figures.shots_chart(probes), "Bars are one standard deviation over the draws."),
        page.heading("Position embeddings"),
        page.figure(
            figures.posemb_similarity(_tables(workdir)),
            "Each tile is the similarity of one position's embedding to all others. Left: as pretrained. Middle: "
            "interpolated to the finer grid, where fine-tuning starts. Right: after fine-tuning.",
        ),
        page.heading("Predictions on held-out images"),
        page.paragraph("Fine-tuned model, the three most probable digits. The least certain images come first."),
        page.grid(_cards(workdir)),
    ]
    (workdir / "report.html").write_text(page.page("vit_jax demo", parts), encoding="utf-8")


def _curves(workdir: Path) -> dict[str, Any]:
    rows = {name: read_metrics(workdir / name) for name in ("pretrain", "finetune", "scratch")}

    def points(name: str, key: str) -> list[tuple[int, float]]:
        return [(row["step"], row[key]) for row in rows[name] if key in row]

    return {
        "pretraining": {
            "training loss": points("pretrain", "train/loss"),
            "training accuracy": points("pretrain", "train/accuracy"),
        },
        "held-out accuracy": {
            "fine-tuned": points("finetune", "val/accuracy"),
            "from scratch": points("scratch", "val/accuracy"),
        },
    }


def _tables(workdir: Path) -> dict[str, np.ndarray]:
    before, after = (
        np.asarray(load(workdir / name).params["encoder"]["pos_embedding"]) for name in ("pretrain", "finetune")
    )
    return {
        "pretrained": before,
        "interpolated": interpolate_posemb(before, after.shape[:2]),
        "fine-tuned": after,
    }


def _cards(workdir: Path) -> list[str]:
    loaded = load(workdir / "finetune")
    source = digits.build("test")
    images = [source[i]["image"] for i in range(len(source))]
    batch = np.stack([loaded.preprocess(image) for image in images])
    rows = np.asarray(probabilities(loaded.logits(batch), "softmax"))
    cards = []
    for i in np.argsort(rows.max(axis=1), kind="stable")[:_SAMPLES]:
        ranked = [(loaded.labels[k], float(rows[i, k])) for k in np.argsort(-rows[i], kind="stable")[:3]]
        png = image_png(loaded.preprocess.to_uint8(images[i]))
        cards.append(page.prediction_card(png, loaded.labels[source[i]["label"]], ranked))
    return cards
