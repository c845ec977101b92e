"""Steps of DDPM and DDIM against diffusers' schedulers, with noise that is given."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch

import tests.torchvision_ops  # noqa: F401  before diffusers
from vit_jax.nn.diffusion import Noising, Steps, betas, spaced, step_back

diffusers = pytest.importorskip("diffusers")
scheduling_ddpm = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")

RNG = np.random.default_rng(0)
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
VARIANCES = {"fixed_small": "small", "fixed_large": "large", "learned_range": "learned_range"}
SHAPE = (2, 3, 4, 5)
# Stable Diffusion's ends, and for "linear" as good as any.
FIRST, LAST = 0.00085, 0.012


def tables(theirs, schedule):
    """Theirs are float32: they are near ours, and then replaced by what float64 gives, for the formulas alone to differ
    (1 - 0.999 in float32 is wrong by 3e-5)."""
    ours = betas(schedule, first=FIRST, last=LAST)
    exact = np.cumprod(1 - ours)
    np.testing.assert_allclose(theirs.alphas_cumprod.numpy(), exact, rtol=2e-4)
    theirs.alphas_cumprod = torch.from_numpy(exact)
    if hasattr(theirs, "final_alpha_cumprod"):
        theirs.final_alpha_cumprod = torch.tensor(1.0 if theirs.config.set_alpha_to_one else exact[0])
    return ours


def drawn(channels):
    return RNG.normal(size=(*SHAPE[:3], SHAPE[3] * channels)).astype(np.float32)


def assert_steps(theirs, step, noising, how, wide=1):
    """Every kept step alone, from a fresh x_t."""
    last = len(noising.timesteps) - 1
    np.testing.assert_array_equal(noising.timesteps[::-1], theirs.timesteps.numpy())
    for n in sorted({0, 1, last // 2, last}) if last > 20 else range(last + 1):
        output, xt, noise = drawn(wide), drawn(1), drawn(1)
        move = [torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float64)) for x in (output, xt, noise)]
        wanted = np.moveaxis(step(theirs, int(noising.timesteps[n]), *move).numpy(), 1, -1)
        found = np.asarray(step_back(noising, output, xt, noise, n, how))
        error = np.abs(found - wanted).max() / max(1, np.abs(wanted).max())
        assert error < 1e-5, (int(noising.timesteps[n]), error)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_ddpm(schedule, prediction, variance, monkeypatch):
    def step(theirs, t, output, xt, noise):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda shape, **_: noise)
        return theirs.step(output, t, xt).prev_sample

    for clip, count in ((True, None), (False, None), (False, 10)):
        theirs = diffusers.DDPMScheduler(
            beta_start=FIRST, beta_end=LAST, beta_schedule=schedule, prediction_type=prediction, variance_type=variance,
            clip_sample=clip,
        )  # fmt: skip
        table = tables(theirs, SCHEDULES[schedule])
        if count:
            theirs.set_timesteps(count)
        noising = Noising.of(table, spaced(count) if count else None)
        how = Steps("ddpm", PREDICTIONS[prediction], VARIANCES[variance], clip)
        assert_steps(theirs, step, noising, how, 2 if variance == "learned_range" else 1)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim(spacing, eta, clip):
    def step(theirs, t, output, xt, noise, fit=False):
        noise = noise if eta else None
        return theirs.step(output, t, xt, eta=eta, variance_noise=noise, use_clipped_model_output=fit).prev_sample

    for (name, schedule), to_image in itertools.product(SCHEDULES.items(), (True, False)):
        for (theirs_say, kind), count in zip(PREDICTIONS.items(), (10, 7, 40), strict=True):
            offset = int(spacing == "leading" and not to_image)
            theirs = diffusers.DDIMScheduler(
                beta_start=FIRST, beta_end=LAST, beta_schedule=name, prediction_type=theirs_say, clip_sample=clip,
                timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=to_image,
            )  # fmt: skip
            table = tables(theirs, schedule)
            theirs.set_timesteps(count)
            kept = spaced(count, 1000, spacing, offset)
            noising = Noising.of(table, kept, stride=1000 // count, to_image=to_image)
            how = Steps("ddim", kind, "small", clip, eta=eta)
            assert_steps(theirs, step, noising, how)
            if clip and eta != 0.5:
                fitted = functools.partial(step, fit=True)
                assert_steps(theirs, fitted, noising, dataclasses.replace(how, fit_noise=True))
