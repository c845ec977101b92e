"""DiT's pipelines as diffusers keeps them (`DiTPipeline`): a folder with `model_index.json`, `transformer/`, `vae/` and
`scheduler/`."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from vit_jax.checkpoints.families import diffusers_dit, diffusers_kl
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import autoencoder as autoencoders
from vit_jax.checkpoints.parts import diffusers_scheduler
from vit_jax.checkpoints.parts.dit import LABEL_DROP
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.pipeline_folder import INDEX
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models import kl_autoencoder
from vit_jax.tasks import ddpm

LIBRARY = "diffusers"
MODELS = "DiTPipeline, a folder with model_index.json"
WRITES = ("dit",)
COMPARED = "images of the whole pipeline, guided, in 4 steps; folders of ours opened by diffusers"

_CLASS = "DiTPipeline"
_FILE = "diffusion_pytorch_model.safetensors"
# By the names of subfolders: where our parameters are, and who knows the names.
_PARTS: Mapping[str, tuple[str, ModuleType]] = {"transformer": ("", diffusers_dit), "vae": ("tokenizer", diffusers_kl)}
FILES = {f"{part}/": f"{part}/{_FILE}" for part in _PARTS}
_GIVEN = ["inputs", "outputs", "num_classes"]


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    index = sidecar.pipeline
    if not index or not sidecar.parts or index.text("_class_name") != _CLASS:
        return None
    for part in (*_PARTS, "scheduler"):
        if part not in sidecar.parts:
            raise index.error(part, "is missing: there is nothing that draws an image", "Fetch the whole folder")
    found = {}
    for part, (_, family) in _PARTS.items():
        own = {name.removeprefix(f"{part}/"): shape for name, shape in tensors.items() if name.startswith(f"{part}/")}
        found[part] = family.describe(own, sidecar.parts[part])
        if found[part] is None:
            raise UserError(f"The folder {part!r} holds no {family.MODELS}", "Only pipelines of DiT can be read")
    kwargs, vae = dict(found["transformer"].kwargs), found["vae"]
    tokenizer = {"name": vae.model, **vae.kwargs}
    latents = vae.kwargs["latent_width"]
    if kwargs["inputs"] != latents or kwargs["outputs"] not in (latents, 2 * latents):
        raise UserError(
            f"The transformer reads {kwargs['inputs']} channels and gives {kwargs['outputs']}, and latents have "
            f"{latents}",
            "Use the autoencoder that it was trained with",
        )
    scheduler = diffusers_scheduler.read(sidecar.parts["scheduler"].scheduler)
    noise = dict(scheduler.noise)
    if kwargs["outputs"] == 2 * latents:
        noise["variance"] = "learned_range"
    elif noise["variance"] == "learned_range":
        del noise["variance"]
    remarks = [each for one in found.values() for each in one.remarks] + list(scheduler.remarks)
    if scheduler.clip:
        remarks.append("clip_sample of the scheduler cuts latents there; here it is asked for, as clip=True (--clip)")
    stride = kl_autoencoder.build(**vae.kwargs).layout.stride
    side = stride * sidecar.parts["transformer"].config.integer("sample_size", diffusers_dit.SIDE, at_least=1)
    said = {"conditional": True, "label_drop": LABEL_DROP, "tokenizer": tokenizer, **noise}
    layout = {
        "beside": {"tokenizer": {"name": vae.model, "kwargs": vae.kwargs}},
        **{part: dict(one.layout) for part, one in found.items()},
    }
    return Published(
        "dit", kwargs, autoencoders.pixels(side), layout, _labels(index, kwargs["num_classes"] - 1), tuple(remarks),
        task={"name": "ddpm", "kwargs": said, "given": _GIVEN},
    )  # fmt: skip


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds those of the parts by their subfolders."""
    arguments = {"transformer": kwargs, "vae": layout["beside"]["tokenizer"]["kwargs"]}
    entries, ignored = [], []
    for part, (ours, family) in _PARTS.items():
        own = family.name_map(arguments[part], layout.get(part, {})).below(ours and f"{ours}/", f"{part}/")
        entries += own.entries
        ignored += own.ignored
    return NameMap(entries, tuple(ignored))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    task = metadata.get("task") or {}
    section = task.get("kwargs", {}).get("tokenizer")
    if not is_of(metadata, "dit") or task["name"] != "ddpm" or not section or section["name"] != "kl_autoencoder":
        return None
    vae = {"name": section["name"], "kwargs": {key: value for key, value in section.items() if key != "name"}}
    beside = {
        "transformer": diffusers_dit.sidecar({**metadata, "task": None}),
        "vae": diffusers_kl.sidecar({**metadata, "model": vae}),
    }
    how = complete(ddpm.build, {key: value for key, value in task["kwargs"].items() if key != "model"})
    if None in beside.values() or not how["conditional"] or not how["label_drop"]:
        return None
    scheduler = diffusers_scheduler.of_latents({**how, "spacing": "leading", "offset": 0, "to_image": True})
    index = {
        "_class_name": _CLASS,
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "id2label": {str(i): label for i, label in enumerate(metadata["labels"])},
    }
    files = {f"{part}/{name}": values for part, own in beside.items() for name, values in own.items()}
    return {**files, f"scheduler/{diffusers_scheduler.FILE}": scheduler, INDEX: index}


def _labels(index: JsonObject, count: int) -> tuple[str, ...]:
    """Those that the index names; numbers where it names others."""
    names = index.names("id2label") if isinstance(index.get("id2label"), Mapping) else {}
    known = all(str(i) in names for i in range(count))
    return tuple(names[str(i)] if known else f"class {i}" for i in range(count))
