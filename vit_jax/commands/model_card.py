"""The README.md of a model on a hub: what it is, how it is loaded, its figures and how it was made, by its run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vit_jax.errors import printable

if TYPE_CHECKING:
    from vit_jax.checkpoints.source import StoredModel

# What the hub calls what tasks do; the others give features.
_TAGS = {
    "classify": "image-classification",
    "distil": "image-classification",
    "contrastive": "zero-shot-image-classification",
    "segment": "image-segmentation",
    "detect": "object-detection",
    "sam": "mask-generation",
}
_LOADS = {
    "timm": ("import timm", 'model = timm.create_model("hf-hub:{name}", pretrained=True)'),
    "transformers": ("from transformers import AutoModel", 'model = AutoModel.from_pretrained("{name}")'),
    "open_clip": ("import open_clip", 'model, preprocess = open_clip.create_model_from_pretrained("hf-hub:{name}")'),
}


def card(
    source: StoredModel,
    name: str,
    to: str,
    figures: Mapping[str, float],
    notes: Sequence[str] = (),
    license_name: str | None = None,
) -> str:
    """The text of the card.

    Args:
        source: what is published.
        name: under which, 'owner/name' or that of the folder.
        to: the format that it was written in.
        figures: measured, by their names in metrics.jsonl; see `figures_of`.
        notes: what the other library does otherwise.
        license_name: as the hub has it, such as 'apache-2.0'.
    """
    metadata = source.metadata
    config = metadata.get("config") or {}
    task = (metadata.get("task") or {}).get("name", "")
    data = _data(config)
    return "\n".join(
        [
            *_header(name, to, _TAGS.get(task, "image-feature-extraction"), data, figures, license_name),
            f"# {_plain(name.rpartition('/')[2])}",
            "",
            *_about(source, data),
            *_use(name, to),
            *(["## Where libraries differ", "", *(f"- {_plain(note)}." for note in notes), ""] if notes else []),
            *_figures(figures, metadata.get("step")),
            *_config(config),
        ]
    )


def _header(
    name: str, to: str, tag: str, data: Sequence[str], figures: Mapping[str, float], license_name: str | None
) -> list[str]:
    """What the hub reads: YAML, whose values are written as JSON, which YAML contains."""
    of = {"type": tag}
    metrics = [{"type": key.rpartition("/")[2], "name": key, "value": value} for key, value in figures.items()]
    dataset = {"name": " + ".join(data) or "unknown", "type": data[0] if data else "unknown"}
    said: dict[str, Any] = {
        "library_name": to if to in _LOADS else "vit_jax",
        "pipeline_tag": tag,
        "tags": ["vit_jax", "jax"],
    }
    if license_name:
        said["license"] = license_name
    if metrics:
        results = [{"task": of, "dataset": dataset, "metrics": metrics}]
        said["model-index"] = [{"name": name.rpartition("/")[2], "results": results}]
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in said.items()), "---", ""]


def _about(source: StoredModel, data: Sequence[str]) -> list[str]:
    metadata = source.metadata
    model = metadata["model"]
    size = metadata.get("image_size")
    kwargs = model["kwargs"]
    said = [
        ("model", " ".join([model["name"], *([str(kwargs["variant"])] if "variant" in kwargs else [])])),
        ("image", f"{size[0]}x{size[1]} pixels" if size else ""),
        ("classes", str(len(metadata["labels"])) if metadata.get("labels") else ""),
        ("trained on", ", ".join(data)),
        ("task", (metadata.get("task") or {}).get("name", "")),
        ("step", str(metadata["step"]) if "step" in metadata else ""),
        ("commit of vit_jax", metadata.get("commit") or ""),
    ]
    return ["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in said if value), ""]


def _use(name: str, to: str) -> list[str]:
    lines = ["import vit_jax", "", f"m = vit_jax.load({json.dumps('hf://' + name if '/' in name else name)})"]
    lines += ['m.outputs({"image": m.preprocess.to_uint8("photo.jpg")[None]})']
    if to in _LOADS:
        head, call = _LOADS[to]
        # Of a folder here timm and open_clip want to be told.
        call = call if "/" in name else call.replace("hf-hub:", "local-dir:")
        lines += ["", head, "", call.replace("{name}", name)]
    return ["## Use it", "", "```python", *lines, "```", ""]


def _figures(figures: Mapping[str, float], step: int | None) -> list[str]:
    if not figures:
        return []
    rows = [f"| {_cell(key)} | {value:.6g} |" for key, value in figures.items()]
    return ["## Figures", "", f"Measured by the run itself, at step {step}.", "", "| | |", "|---|---|", *rows, ""]


def _config(config: Mapping[str, Any]) -> list[str]:
    if not config:
        return []
    text = json.dumps(without_places(config), indent=2)
    return [
        "## Config",
        "",
        "Of the run, with places on its machine shortened to their names.",
        "",
        "```json",
        text,
        "```",
        "",
    ]


def without_places(value: Any) -> Any:
    """The same with absolute paths shortened to their last part: where somebody's files lie is nobody's business."""
    if isinstance(value, Mapping):
        return {key: without_places(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(x) for x in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return value.rstrip("/").rpartition("/")[2]
    return value


def _data(config: Mapping[str, Any]) -> list[str]:
    """Names of the sources that the run was trained on."""
    train = (config.get("data") or {}).get("train") or {}
    several = train if isinstance(train, (list, tuple)) else [train]
    names = [
        ":".join(str(x) for x in (each.get("name"), without_places(each.get("dataset"))) if x)
        for each in several
        if isinstance(each, Mapping)
    ]
    return [name for name in names if name]


def _plain(text: str) -> str:
    return printable(text).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
