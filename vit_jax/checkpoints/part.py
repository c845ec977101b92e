"""One tower of a checkpoint that holds several, as if it lay there alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.description import described_data, image_section, rebuilt, task_of_model
from vit_jax.checkpoints.source import StoredModel, model_shapes, nested
from vit_jax.checkpoints.transfer import flat_arrays
from vit_jax.errors import UserError
from vit_jax.naming import named_module, nearest


def part_of(source: StoredModel, part: str) -> StoredModel:
    """A tower of what was opened, with its own fields and without its head.

    Which towers a model has, its module says: `downstream(kwargs)` is the section of the image model in it, "encoder",
    and `texts(kwargs)` that of the text model, "text". A model without the former is its own image model.

    Args:
        part: "encoder" or "text".

    Raises:
        UserError: there is no such part in it.
    """
    metadata, sections = source.metadata, _sections(source)
    if part not in sections:
        has = f"It has {' and '.join(map(repr, sections))}" if sections else "It has one network alone"
        raise UserError(
            f"{source.path} has no part {part!r}", has if part in ("encoder", "text") else nearest(part, sections)
        )
    section = dict(sections[part])
    spec = {"name": section.pop("name"), "kwargs": section}
    of_text = part == "text"
    fields = described_data(metadata).fields
    kept = {k: v for k, v in (metadata["fields"] or {}).items() if fields[k].is_text is of_text} or None
    alone = {**metadata, "model": spec, "task": task_of_model(spec), "fields": kept}
    if of_text:
        alone |= {"preprocess": None, "image_size": None, "labels": []}

    def read() -> tuple[dict, dict]:
        params, state = source.read()
        flat = flat_arrays(params) | flat_arrays(state)
        wanted, collections = model_shapes(spec["name"], spec["kwargs"], alone["image_size"])
        lost = [name for name in wanted | collections if name not in flat]
        if lost:
            raise UserError(f"{source.path} has nothing for {lost[0]} of its part {part!r}", "Load it whole")
        return nested({n: flat[n] for n in wanted}), nested({n: flat[n] for n in collections})

    return dataclasses.replace(source, metadata=alone, read=read)


def _sections(source: StoredModel) -> dict[str, Mapping[str, Any]]:
    """The `model` sections of the towers, by the subtree where each has its parameters."""
    metadata = source.metadata
    spec = metadata["model"]
    if metadata["task"] is not None:
        spec = rebuilt(metadata, source.path)[0].downstream or spec
    if spec is None:
        return {}
    module, found = named_module("model", spec["name"]), {}
    if metadata["preprocess"] is not None:
        found["encoder"] = {k: v for k, v in image_section(spec).items() if k != "head_bias_init"} | {"num_classes": 0}
    if hasattr(module, "texts"):
        found["text"] = module.texts(spec["kwargs"])
    return found
