"""Pipelines of diffusers that draw images of texts, a folder with `model_index.json`: Stable Diffusion's U-Net, also
for in-painting and depth, autoencoder, text tower, ControlNets, tokenizer and scheduler."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from vit_jax.checkpoints.families import diffusers_controlnet, diffusers_kl, diffusers_unet_condition, hf_clip_text
from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.name_map import NameMap, Shapes
from vit_jax.checkpoints.parts import autoencoder as autoencoders
from vit_jax.checkpoints.parts import clip_tokenizer, diffusers_scheduler
from vit_jax.checkpoints.parts.latent_diffusion import controls, section
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.latent_diffusion import build
from vit_jax.tasks import controlnet, depth, inpaint, text_to_image

LIBRARY = "diffusers"
MODELS = "StableDiffusionPipeline, for images, in-painting, depth and ControlNets too, a folder with model_index.json"
WRITES = ("latent_diffusion",)
COMPARED = "latents and images of the whole pipeline, guided, in 4 and 10 steps; folders of ours opened by diffusers"

# By the names of subfolders: where our parameters are, and who knows the names.
_PARTS: Mapping[str, tuple[str, ModuleType]] = {
    "unet": ("unet", diffusers_unet_condition),
    "vae": ("autoencoder", diffusers_kl),
    "text_encoder": ("text", hf_clip_text),
}
_CONTROL = "controlnet"  # the first one's subfolder; the next is 'controlnet_1'
_MOST_CONTROLS = 8
FILES = {
    "unet/": "unet/diffusion_pytorch_model.safetensors",
    "vae/": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/": "text_encoder/model.safetensors",
    **{
        f"{folder}/": f"{folder}/diffusion_pytorch_model.safetensors"
        for folder in (_CONTROL, *(f"{_CONTROL}_{i}" for i in range(1, _MOST_CONTROLS)))
    },
}
_CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}
# With which it was compared; diffusers wants one of in-painting's, and mends what came before 0.9.
_VERSION = "0.42.1"
# Of each task who builds it, and the pipeline.
_TASKS: Mapping[str, tuple[ModuleType, str]] = {
    "text_to_image": (text_to_image, "StableDiffusionPipeline"),
    "inpaint": (inpaint, "StableDiffusionInpaintPipeline"),
    "depth": (depth, "StableDiffusionDepth2ImgPipeline"),
    "controlnet": (controlnet, "StableDiffusionControlNetPipeline"),
}
# Tasks whose pipelines compare the side of images with a number, and are not opened with two.
ONE_SIDE = ("inpaint", "depth")
_DEPTH = {"depth": {"name": "dense", "dtype": "float32"}}
_ONE = "Only pipelines of Stable Diffusion are read whole: name the folder of one of its models, such as unet"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    index = sidecar.pipeline
    if not index or not sidecar.parts or index.text("_class_name") == "DiTPipeline":
        return None
    if "text_encoder" not in sidecar.parts:
        raise index.error("_class_name", f"is {shown(index.get('_class_name'))}, and nothing in it reads texts", _ONE)
    for part in (*_PARTS, "scheduler"):
        if part not in sidecar.parts:
            raise index.error(part, "is missing: there is nothing that draws an image", "Fetch the whole folder")
    found, parts = {}, _parts(sum(name.partition("_")[0] == _CONTROL for name in sidecar.parts))
    for part, (_, family) in parts.items():
        own = {name.removeprefix(f"{part}/"): shape for name, shape in tensors.items() if name.startswith(f"{part}/")}
        beside = sidecar.parts[part]
        if part == "text_encoder" and "tokenizer" in sidecar.parts:
            known = sidecar.parts["tokenizer"]
            beside = Sidecar(
                config=beside.config, tokenizer=known.tokenizer, special_tokens=known.special_tokens,
                vocabularies=known.vocabularies,
            )  # fmt: skip
        found[part] = family.describe(own, beside)
        if found[part] is None:
            raise UserError(
                f"The folder {part!r} holds no {family.MODELS}",
                "Only pipelines of Stable Diffusion 1 and 2 can be read",
            )
    kwargs: dict[str, Any] = {
        ours: {"name": found[part].model, **found[part].kwargs} for part, (ours, _) in _PARTS.items()
    }
    given = {key: kwargs["text"].pop(key) for key in ("vocab_size", "end_id")}
    adding = [{"name": one.model, **one.kwargs} for part, one in found.items() if part not in _PARTS]
    kwargs |= {"control": adding} if adding else {}
    model = build(**kwargs, **given)
    latents = model.autoencoder.latent_width
    extra = model.unet.inputs - latents
    # What it reads beside the latents: nothing, how far away things are, or a mask and the latents that it leaves.
    reading = {0: "controlnet" if adding else "text_to_image", 1: "depth", 1 + latents: "inpaint"}
    if extra not in reading or (extra and adding):
        raise UserError(
            f"The U-Net reads {extra} channels beside the latents, which no task of vit_jax gives it",
            "Load another pipeline",
        )
    scheduler = diffusers_scheduler.read(sidecar.parts["scheduler"].scheduler)
    side = sidecar.parts["unet"].config.sides("sample_size") or [64, 64]
    stride = model.autoencoder.layout.stride
    task = {
        "name": reading[extra],
        "kwargs": {**scheduler.noise, "spacing": scheduler.spacing, "to_image": scheduler.to_image, "offset": 1},
        "given": list(given),
    }
    remarks = [each for part in found.values() for each in part.remarks] + list(scheduler.remarks)
    remarks += _not_loaded(index) + _as_the_pipeline_has_it(index, scheduler)
    if not index.text("_class_name", "").startswith("StableDiffusion"):
        task["kwargs"]["offset"] = scheduler.offset
    fields = {"image": {"name": "image"}, **found["text_encoder"].fields, **(_DEPTH if extra == 1 else {})}
    preprocess = autoencoders.pixels() | {"image_size": [each * stride for each in side]}
    layout = {part: dict(one.layout) for part, one in found.items()}
    return Published("latent_diffusion", kwargs | given, preprocess, layout, (), tuple(remarks), fields, task)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds those of the parts by their subfolders."""
    entries, ignored = [], []
    for part, (ours, family) in _parts(len(controls(kwargs))).items():
        own = family.name_map(section(kwargs, ours)["kwargs"], layout.get(part, {}))
        # The text tower's names have its subtree in front already.
        below = own.below("" if ours == "text" else f"{ours}/", f"{part}/")
        entries += below.entries
        ignored += below.ignored
    return NameMap(entries, tuple(ignored))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not is_of(metadata, "latent_diffusion") or metadata["task"]["name"] not in _TASKS:
        return None
    kwargs, files = metadata["model"]["kwargs"], {}
    count = len(controls(kwargs))
    for part, (ours, family) in _parts(count).items():
        spec = section(kwargs, ours)
        beside = family.sidecar({**metadata, "model": spec}) if spec["name"] in family.WRITES else None
        if beside is None:
            return None
        files |= {f"{part}/{name}": values for name, values in beside.items()}
    model = build(**kwargs)
    places = model.places(tuple(metadata["image_size"]))
    one = len(set(places)) == 1 or metadata["task"]["name"] in ONE_SIDE
    files["unet/config.json"]["sample_size"] = max(places) if one else list(places)
    task, name = _TASKS[metadata["task"]["name"]]
    how = complete(task.build, {k: v for k, v in metadata["task"]["kwargs"].items() if k != "model"})
    files[f"scheduler/{diffusers_scheduler.FILE}"] = diffusers_scheduler.of_latents(how)
    index = {"_class_name": name, "_diffusers_version": _VERSION, **_CLASSES}
    if count:
        index[_CONTROL] = ["diffusers", "ControlNetModel" if count == 1 else "MultiControlNetModel"]
    if name != _TASKS["depth"][1]:  # which takes none of these
        index |= {"safety_checker": [None, None], "requires_safety_checker": False, "feature_extractor": [None, None]}
    tokenizer = clip_tokenizer.files(metadata["fields"]["text"])
    index["tokenizer"] = ["transformers", "CLIPTokenizer"] if tokenizer else [None, None]
    files |= {f"tokenizer/{name}": values for name, values in (tokenizer or {}).items()}
    return files | {"model_index.json": index}


def _parts(controls: int) -> dict[str, tuple[str, ModuleType]]:
    """Those of a folder with so many ControlNets."""
    more = {f"{_CONTROL}_{i}" if i else _CONTROL: (f"control_{i}", diffusers_controlnet) for i in range(controls)}
    return {**_PARTS, **more}


def _not_loaded(index: JsonObject) -> list[str]:
    return [
        f"its {name.replace('_', ' ')} is not loaded"
        for name in ("safety_checker", "image_encoder", "depth_estimator")
        if isinstance(index.get(name), list) and index[name][-1:] != [None]
    ]


def _as_the_pipeline_has_it(index: JsonObject, scheduler: diffusers_scheduler.Scheduler) -> list[str]:
    """What diffusers' pipeline of Stable Diffusion does whatever the scheduler's file says, and so do we."""
    said = []
    if scheduler.clip:
        said.append("clip_sample of the scheduler is passed over, as diffusers' pipeline does: latents are not cut")
    if scheduler.offset != 1 and index.text("_class_name", "").startswith("StableDiffusion"):
        said.append(
            f"steps_offset of the scheduler is taken for 1, not {scheduler.offset}, as diffusers' pipeline does"
        )
    return said
