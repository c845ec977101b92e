"""scheduler_config.json of diffusers: the noise that a network was trained with, and how a sampler goes back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.parts.sidecars import complete
from vit_jax.naming import named_module

FILE = "scheduler_config.json"
_OURS = ("DDIMScheduler", "DDPMScheduler")
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_VARIANCES = {
    "fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large",
    "learned_range": "learned_range",
}  # fmt: skip
# With another value than this they would change samples.
_FIXED = {"trained_betas": None, "thresholding": False, "rescale_betas_zero_snr": False, "clip_sample_range": 1.0}


class Scheduler(NamedTuple):
    """What a file says.

    Args:
        sampler: "ddim" or "ddpm".
        noise: `schedule`, `steps`, `first`, `last`, `prediction` and `variance`, as the tasks of diffusion take them.
        spacing: see `vit_jax.nn.diffusion.spaced`, like `offset`.
        to_image: see `vit_jax.nn.diffusion.Noising.of`.
        clip: whether what is predicted of the image is cut to -1..1.
        remarks: sentences on what was assumed, or is not as the file says.
    """

    sampler: str
    noise: dict[str, Any]
    spacing: str
    offset: int
    to_image: bool
    clip: bool
    remarks: tuple[str, ...]


def read(config: JsonObject) -> Scheduler:
    """The scheduler of a file; what it leaves out is as in diffusers' class of that name.

    Raises:
        UserError: for a schedule, a prediction or a variance that vit_jax does not have.
    """
    kind, remarks = config.text("_class_name", "DDIMScheduler"), []
    for key, value in _FIXED.items():
        if config.get(key, value) not in (value, None):
            raise config.error(key, f"is {shown(config[key])}, which the samplers of vit_jax do not know")
    said = config.text("prediction_type")
    if said is None:
        remarks.append(f"{FILE} does not say what the network predicts: noise is taken, diffusers' default")
    schedule = config.text("beta_schedule", "linear")
    variance = config.text("variance_type", "fixed_small") if kind == "DDPMScheduler" else "fixed_small"
    for key, value, known in (
        ("prediction_type", said or "epsilon", _PREDICTIONS), ("beta_schedule", schedule, _SCHEDULES),
        ("variance_type", variance, _VARIANCES),
    ):  # fmt: skip
        if value not in known:
            raise config.error(key, f"is {shown(value)}; known are {', '.join(known)}")
    noise = {
        "prediction": _PREDICTIONS[said or "epsilon"],
        "variance": _VARIANCES[variance],
        "schedule": _SCHEDULES[schedule],
        "steps": config.integer("num_train_timesteps", 1000, at_least=1),
        "first": config.number("beta_start", 1e-4, above=0),
        "last": config.number("beta_end", 0.02, above=0),
    }
    if kind not in _OURS:
        remarks.append(f"the sampler is {kind} there, which vit_jax does not have: DDIM with the same noise is taken")
    # Of the others some have neither key; they neither cut nor go to the image by default.
    return Scheduler(
        "ddpm" if kind == "DDPMScheduler" else "ddim",
        noise,
        config.text("timestep_spacing", "leading" if kind in (*_OURS, "PNDMScheduler") else "linspace"),
        config.integer("steps_offset", 0),
        config.boolean("set_alpha_to_one", kind in _OURS),
        config.boolean("clip_sample", kind in _OURS),
        tuple(remarks),
    )


def said_of_pixels(config: JsonObject, learned: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the file beside a network of pixels says of the noise, as the task `ddpm` takes it, and remarks.

    Args:
        config: of the file; empty where there is none.
        learned: whether the network has channels for the variance.

    Raises:
        UserError: see `read`.
    """
    said: dict[str, Any] = {"variance": "learned_range" if learned else "large"}
    if not config:
        return said, ()
    found = read(config)
    noise = dict(found.noise)
    # A sampler of DDIM does not say it, and what is learned is seen from the channels.
    if found.sampler != "ddpm" or (noise["variance"] == "learned_range") != learned:
        del noise["variance"]
    return said | noise, found.remarks


def of_latents(how: Mapping[str, Any]) -> dict[str, Any]:
    """The file of DDIM's sampler in latents, which are not cut.

    Args:
        how: the keys of `Scheduler.noise`, and `spacing`, `offset` and `to_image`; others are passed over.
    """
    return {
        "_class_name": "DDIMScheduler",
        **_noise(how),
        "timestep_spacing": how["spacing"],
        "steps_offset": how["offset"],
        "set_alpha_to_one": how["to_image"],
        "clip_sample": False,
    }


def of_pixels(how: Mapping[str, Any]) -> dict[str, Any]:
    """The file of DDPM's sampler in pixels, which cuts the image to -1..1.

    Args:
        how: the keys of `Scheduler.noise`; others are passed over.
    """
    return {
        "_class_name": "DDPMScheduler",
        **_noise(how),
        "variance_type": _inverse(_VARIANCES, how["variance"]),
        "timestep_spacing": "leading",
        "clip_sample": True,
    }


def files_of_pixels(task: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """What says the noise that a network was trained with, which its own config has no place for. Nothing of one whose
    task has no noise, or is not known."""
    how = {} if task is None else complete(named_module("task", task["name"]).build, task["kwargs"])
    return {FILE: of_pixels(how)} if "schedule" in how else {}


def _noise(how: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_train_timesteps": how["steps"],
        "beta_start": how["first"],
        "beta_end": how["last"],
        "beta_schedule": _inverse(_SCHEDULES, how["schedule"]),
        "prediction_type": _inverse(_PREDICTIONS, how["prediction"]),
    }


def _inverse(names: Mapping[str, str], ours: str) -> str:
    return next(theirs for theirs, own in names.items() if own == ours)
