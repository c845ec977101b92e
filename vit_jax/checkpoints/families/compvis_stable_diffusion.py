"""Stable Diffusion 1 and 2 as their authors distribute them (github.com/CompVis/stable-diffusion,
github.com/Stability-AI/stablediffusion): U-Net, autoencoder and text tower in one file.

They distribute pickles; this reads what `safetensors.torch.save_file` makes of their "state_dict".
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from vit_jax.checkpoints.families import compvis_kl, compvis_unet, hf_clip_text
from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import autoencoder as autoencoders
from vit_jax.checkpoints.parts import diffusers_scheduler, open_clip_text
from vit_jax.checkpoints.parts.latent_diffusion import section
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError

LIBRARY = "compvis"
MODELS = "Stable Diffusion 1 and 2, all of it in one file, in their authors' names"
WRITES = ("latent_diffusion",)
COMPARED = "diffusers' conversion of such files"

# By our subtrees: what is before their names, and who knows those.
_PARTS: Mapping[str, tuple[str, ModuleType]] = {
    "unet": (compvis_unet.PREFIX, compvis_unet),
    "autoencoder": (autoencoders.FIRST_STAGE, compvis_kl),
    "text": (autoencoders.TEXT_STAGE, hf_clip_text),
}
_SECOND = _PARTS | {"text": (autoencoders.OPEN_TEXT_STAGE, open_clip_text)}
# The schedule of the noise, averages, and what trained along.
_IGNORED = ("[!cfm]*", "model_ema.*", "control_model.*")
_SIDE, _SIDE_OF_SECOND = 512, 768  # pixels
_NOISES = {  # of each version what is taken, and said
    False: ({}, "Stable Diffusion 1's is taken, which the U-Net predicts"),
    True: (
        {"prediction": "v"},
        "Stable Diffusion 2's is taken, at 768 pixels, of which the U-Net predicts v; its base model for 512 predicts "
        f"the noise: put its {diffusers_scheduler.FILE} beside the file",
    ),
}
_HEAD_WIDTH = 64  # of the text tower


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if not autoencoders.is_whole_pipeline(tensors):
        return None
    second = f"{autoencoders.OPEN_TEXT_STAGE}ln_final.weight" in tensors
    found = {}
    for part, (prefix, family) in (_SECOND if second else _PARTS).items():
        own = {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}
        found[part] = family.describe(own, _tokens(own, sidecar, second) if part == "text" else Sidecar())
        if found[part] is None:
            raise UserError(f"What is below {prefix!r} is no {family.MODELS}", "Only Stable Diffusion 1 and 2 are read")
    kwargs: dict[str, Any] = {part: {"name": one.model, **one.kwargs} for part, one in found.items()}
    given = {key: kwargs["text"].pop(key) for key in ("vocab_size", "end_id")}
    inputs, latents = kwargs["unet"]["inputs"], kwargs["autoencoder"]["latent_width"]
    if inputs != latents:
        raise UserError(
            f"This U-Net reads {inputs} channels, of which {latents} are latents", "Read it as a folder of diffusers"
        )
    remarks = [each for one in found.values() for each in one.remarks]
    noise, taken = _NOISES[second]
    if sidecar.scheduler:
        scheduler = diffusers_scheduler.read(sidecar.scheduler)
        noise = {**scheduler.noise, "spacing": scheduler.spacing, "to_image": scheduler.to_image}
        remarks += scheduler.remarks
    else:
        remarks.append(f"nothing says the noise of such a file: {taken}")
    side = _SIDE_OF_SECOND if second and noise["prediction"] == "v" else _SIDE
    if any(name.startswith("control_model.") for name in tensors):
        remarks.append("its ControlNet is left out: a file of its tensors alone can be read")
    fields = {"image": {"name": "image"}, **found["text"].fields}
    layout = {part: dict(one.layout) for part, one in found.items()}
    return Published(
        "latent_diffusion", kwargs | given, autoencoders.pixels(side), layout, (), tuple(remarks), fields,
        {"name": "text_to_image", "kwargs": noise, "given": list(given)},
    )  # fmt: skip


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds those of the parts. Whatever is written has the text
    tower's names of version 1."""
    entries, ignored, training = [], list(_IGNORED), []
    for part, (prefix, family) in (_SECOND if layout.get("text", {}).get("open_clip") else _PARTS).items():
        own = layout.get(part, {} if part == "text" else {"prefix": ""})
        # The text tower's names have its subtree in front already.
        names = family.name_map(section(kwargs, part)["kwargs"], own).below(
            "" if part == "text" else f"{part}/", prefix
        )
        entries += names.entries
        ignored += names.ignored
        training += names.training
    return NameMap(entries, tuple(ignored), tuple(training))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    if not is_of(metadata, "latent_diffusion"):
        return None
    sections = {part: section(metadata["model"]["kwargs"], part) for part in _PARTS}
    fits = all(sections[part]["name"] in family.WRITES for part, (_, family) in _PARTS.items())
    return {} if fits and not sections["unet"]["kwargs"].get("num_classes") else None


def _tokens(tensors: Shapes, sidecar: Sidecar, second: bool) -> Sidecar:
    """What transformers would say of the text tower, which is CLIP's, and the tokenizer that lies beside the file."""
    if second:
        return Sidecar(tokenizer=sidecar.tokenizer, vocabularies=sidecar.vocabularies)
    width = shape_of(tensors, "text_model.final_layer_norm.weight", 1)[0]
    heads = {} if width % _HEAD_WIDTH else {"num_attention_heads": width // _HEAD_WIDTH}
    return Sidecar(config=heads, tokenizer=sidecar.tokenizer, vocabularies=sidecar.vocabularies)
