"""The task that a checkpoint's metadata describe: as a run wrote it, as older formats said it, or as a published file
is understood."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vit_jax.data.fields import Context, Fields, build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.naming import build_named, named_module
from vit_jax.tasks import DataInfo, Task

Spec = dict[str, Any]  # {"name": ..., "kwargs": {...}}


def task_of_model(model: Mapping[str, Any]) -> Spec:
    """The task of a model of which nothing else is known: that of a classifier, or one that only gives features."""
    section = {"name": model["name"], **model["kwargs"]}
    if not section.get("num_classes"):
        return {"name": "features", "kwargs": {"model": section}}
    del section["num_classes"]
    return {"name": "classify", "kwargs": {"model": section}}


def task_with_model(task: Mapping[str, Any], model: Mapping[str, Any]) -> Spec:
    """The task that a published file names, of the model in it."""
    kwargs = {key: value for key, value in model["kwargs"].items() if key not in task.get("given", ())}
    return {"name": task["name"], "kwargs": {**task["kwargs"], "model": {"name": model["name"], **kwargs}}}


def models_beside(task: Mapping[str, Any], subtrees: Collection[str]) -> dict[str, Spec]:
    """Models that a task's own arguments describe, and whose parameters are below a subtree of the argument's name."""
    sections = {key: value for key, value in task["kwargs"].items() if key != "model" and key in subtrees}
    return {
        key: {"name": section["name"], "kwargs": {k: v for k, v in section.items() if k != "name"}}
        for key, section in sections.items()
        if isinstance(section, Mapping) and "name" in section
    }


def image_section(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the image model in a model: what its module's `downstream(kwargs)` says, where there is more in it
    than an image model, or else the model itself."""
    module = named_module("model", model["name"])
    kwargs = model["kwargs"]
    return module.downstream(kwargs) if hasattr(module, "downstream") else {"name": model["name"], **kwargs}


def upgraded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of an older format as format 2 has them, with the task and the fields.

    Format 1 names a model, and holds the run's config: the task is built of that again, so that it gives all outputs
    that the run could measure. Without one, as in a converted file, it is what the model is by itself.
    """
    if metadata["format"] >= 2:
        return dict(metadata)
    config, model = dict(metadata["config"]), metadata["model"]
    section = config.get("task") or {}
    task = None
    if model is not None and config.get("model") and "name" in section:
        config["model"] = _without_projected(config["model"])
        own = {key: value for key, value in section.items() if key != "name"}
        task = {"name": section["name"], "kwargs": {"model": config["model"], **own}}
    if model is not None:
        kwargs = _without_projected({"name": model["name"], **model["kwargs"]})
        model = {"name": kwargs.pop("name"), "kwargs": kwargs}
        task = task or task_of_model(model)
    return {"fields": None, **metadata, "config": config, "model": model, "task": task}


def _without_projected(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the model `projected` of format 1 is called since then; other models as they are."""
    section = dict(section)
    if isinstance(section.get("trunk"), Mapping):
        section["trunk"] = _without_projected(section["trunk"])
    if section.get("name") != "projected":
        return section
    layers = section.pop("layers", 1)
    return {**section, "name": "probed", "norm": "none", "frozen": False, "projection": layers}


def overridden(metadata: Mapping[str, Any], overrides: Mapping[str, Any], path: object) -> dict[str, Any]:
    """Metadata of a run with other arguments of its model: those under `AFTER_TRAINING` of its module, with which the
    parameters are what they were.

    Raises:
        UserError: an argument that is not among them.
    """
    model = metadata["model"]
    free = getattr(named_module("model", model["name"]), "AFTER_TRAINING", ()) if model else ()
    for key in overrides:
        if key not in free:
            raise UserError(
                f"{path} is a checkpoint of this project, whose model may not be given another {key}",
                f"It may be given {', '.join(free)}"
                if free
                else "Leave it out: the checkpoint holds its own arguments",
            )
    changed = {**metadata, "model": {**model, "kwargs": {**model["kwargs"], **overrides}}}
    for section in ("task", "config"):
        values = dict(metadata[section] or {})
        inner = dict(values.get("kwargs") or {}) if section == "task" else values
        if inner.get("model"):
            inner["model"] = {**inner["model"], **overrides}
        changed[section] = {**values, "kwargs": inner} if section == "task" else inner
    return changed


def rebuilt(metadata: Mapping[str, Any], path: object) -> tuple[Task, Fields]:
    """The task and the fields of a checkpoint.

    Args:
        metadata: of the newest format.
        path: of the checkpoint, for errors.

    Raises:
        UserError: there is no task in it, or one that cannot be built.
    """
    spec, data = metadata["task"], described_data(metadata)
    if spec is None:
        raise UserError(f"{path} names no task to rebuild", "Read it with vit_jax.checkpoints.store.read_params")
    own = {key: value for key, value in spec["kwargs"].items() if key != "model"}
    section = {"name": spec["name"], **own}
    task = build_named("task", section, "metadata.task", model=spec["kwargs"].get("model"), data=data)
    return task, data.fields


def described_data(metadata: Mapping[str, Any]) -> DataInfo:
    """What the task knew of its data when it was built."""
    preprocess = metadata["preprocess"] and Preprocess.from_json(metadata["preprocess"])
    fields = build_fields(metadata["fields"], Context(preprocess, tuple(metadata["labels"])), "metadata.fields")
    size = metadata["image_size"] and tuple(metadata["image_size"])
    return DataInfo(size, class_names(metadata), fields)


def class_names(metadata: Mapping[str, Any]) -> Sequence[str]:
    """The names of the classes; their numbers where a published file has none."""
    count = ((metadata["model"] or {}).get("kwargs") or {}).get("num_classes", 0)
    return tuple(metadata["labels"]) or tuple(map(str, range(count)))
