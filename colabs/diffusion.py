# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # Noise, taken away: a small diffusion
#
# Add a little noise to an image, again and again, until nothing else is left. Each of these steps is so small that a
# network can learn to see the noise in it; and who can see it can take it away. Begin with noise alone, take it away
# step by step, and an image comes out that nobody has drawn: *denoising diffusion*, or
# [DDPM](https://arxiv.org/abs/2006.11239).
#
# Here a small U-Net learns handwritten digits of 8x8 pixels, in a minute or two on a CPU and without network. You will
# see its samples by two samplers, how they come about, why it cannot be done at once, and what lies between two digits.

# %%
# Installs vit_jax where it is missing, as on a fresh Colab machine; does nothing otherwise. INSTALL is what pip gets: a
# package's name, or a zip of the repository: its address (GitHub's end in /archive/refs/heads/main.zip), or the name of
# a file that you have uploaded.
INSTALL = "vit_jax"  # @param {type:"string"}

import importlib.util
import pathlib
import shutil
import subprocess
import sys

if importlib.util.find_spec("vit_jax") is None:
    extras = "hub,cuda12" if shutil.which("nvidia-smi") else "hub"
    wanted = f"{INSTALL}[{extras}]"
    if INSTALL.endswith(".zip"):
        address = INSTALL if "://" in INSTALL else pathlib.Path(INSTALL).resolve().as_uri()
        wanted = f"vit_jax[{extras}] @ {address}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted], check=True)
    importlib.invalidate_caches()

# %% [markdown]
# ## Adding noise
#
# After t steps an image is $\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon$ with noise
# $\epsilon$ from a normal distribution: no need to go step by step. $\bar\alpha_t$ is what is left of the image. The
# *linear* schedule drowns images early; the *cosine* of [iDDPM](https://arxiv.org/abs/2102.09672) goes down slowly, so
# that more of the steps have something to learn. (In print its square is often missing: the dotted line.)

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

written = load_digits()
figure, grid = plt.subplots(1, 10, figsize=(8, 1), layout="constrained")
for axes, image in zip(grid, written.images, strict=False):
    axes.imshow(image, cmap="gray")
    axes.axis("off")
plt.show()

# %%
from vit_jax.inspection import diffusion
from vit_jax.inspection.diffusion_figures import rows_figure, schedules_figure

T = 200
schedules_figure(diffusion.schedules(T))

# %%
from vit_jax.nn.diffusion import Noising, add_noise, betas

clean = np.repeat(written.images[:3, ..., None] / 8 - 1, 3, axis=-1).astype(np.float32)  # -1..1, three equal channels
noise = np.random.default_rng(0).normal(size=clean.shape).astype(np.float32)
shown = np.arange(0, T, 25)


def as_bytes(images):
    """Of images in -1..1."""
    return np.round(255 * np.clip(np.asarray(images) * 0.5 + 0.5, 0, 1)).astype(np.uint8)


rows = {}
for schedule, first, last in (("linear", 5e-4, 0.1), ("cosine", 5e-4, 0.1)):
    noising = Noising.of(betas(schedule, T, first, last))
    for i in range(len(clean)):
        frames = [add_noise(noising, clean[i : i + 1], noise[i : i + 1], np.array([t])) for t in shown]
        rows[f"{schedule}, {i}"] = as_bytes(np.concatenate(frames))
rows_figure(rows, [f"t = {t + 1}" for t in shown])

# %% [markdown]
# ## Learning to see it
#
# The network gets a noisy image, the number of the step, and the class; it says which noise is in there. The loss is
# the mean squared error, at steps drawn at random. One example in ten is shown without its class, so that the network
# can also draw without one. The log has the error by tenths of the steps: `simple_t0` has the least noise, and is the
# hardest.

# %%
import vit_jax
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

STEPS = 500  # @param {type:"integer"}

config = load_config("ddpm_digits")
config["evals"] = {}
changes = {"steps": str(STEPS), "optim.schedule.warmup_steps": str(min(50, STEPS // 5)), "log_every": "50"}
changes |= {"checkpoint.every": "None", "optim.learning_rate": "2e-3"}
train(build_experiment(override(config, changes)), "runs/digits")
model = vit_jax.load("runs/digits")  # with the moving average of the parameters

# %% [markdown]
# ## Two samplers
#
# DDPM goes all 200 steps back and adds fresh noise at each. [DDIM](https://arxiv.org/abs/2010.02502) goes on with the
# noise that the network sees, adds none, and can leave steps out: here it takes ten. Each column asks for one digit.

# %%
digits = [str(i) for i in range(10)]
ways = {
    "DDPM, 200 steps": {"sampler": "ddpm"},
    "DDIM, 10 steps": {"sampler": "ddim", "steps": 10},
    "DDIM, 10 steps, guided": {"sampler": "ddim", "steps": 10, "guidance": 2.0},
}
samples = {name: model.sample(200, prompts=digits, **how) for name, how in ways.items()}
rows_figure({name: drawn.images[:10] for name, drawn in samples.items()}, digits)

# %% [markdown]
# Are they what was asked for? Five nearest neighbours among the real digits say so. They see more than nine in ten of
# real ones that they do not know.

# %%
from sklearn.neighbors import KNeighborsClassifier


def pixels(images):
    """uint8 [N, 8, 8, 3] as rows in 0..1."""
    return images.reshape(len(images), 64, 3).mean(axis=-1) / 255


real, label = written.data / 16, written.target
known = np.arange(len(real)) % 5 > 0
judge = KNeighborsClassifier(5).fit(real[known], label[known])
print(f"real digits: {judge.score(real[~known], label[~known]):.1%}")
for name, drawn in samples.items():
    print(f"{name}: {judge.score(pixels(drawn.images), drawn.conditions['label']):.1%}")

# %% [markdown]
# ## The film strip
#
# How a sample comes about, from left to right. Above what there is at step t; below the image that the network expects
# in the end, seeing it. At first that is its own error, magnified; large forms come first.

# %%
strip = diffusion.film_strip(model, 2, 9, prompts=["3", "8"], seed=1)
rows = {}
for i, digit in enumerate("38"):
    rows[f"x_t of a {digit}"] = np.concatenate([strip.noisy[:, i], strip.samples[i : i + 1]])
    rows[f"expected of a {digit}"] = np.concatenate([strip.expected[:, i], strip.samples[i : i + 1]])
rows_figure(rows, [*(f"t = {t + 1}" for t in strip.timesteps), "sample"])

# %% [markdown]
# ## Why not at once?
#
# Out of the same noise by so many steps. One step is the image that the network expects of noise alone: at best a
# mean over all digits of that class, since noise says nothing of which it should be. This network predicts the noise,
# and its small error is magnified where there is next to no image: you see mostly that. A few steps are enough to
# decide.

# %%
found = diffusion.by_steps(model, [1, 2, 5, 25], 10, prompts=digits)
rows_figure({f"{n} step{'s' * (n > 1)}": images for n, images in found.items()}, digits)

# %% [markdown]
# ## Between two digits
#
# In pixels one image fades into the other, and half-way there are both. DDIM can also be gone upwards, from an image to
# the noise out of which it comes; between two noises lie noises, and each of them comes down to a digit.

# %%
from vit_jax.inspection.interpolation import interpolate

zeros = np.flatnonzero(label == 0)[[0, 5]]
threes = np.flatnonzero(label == 3)[[3, 8]]
pairs = np.repeat(np.round(255 * real[[*zeros, *threes]]).astype(np.uint8).reshape(4, 8, 8, 1), 3, axis=-1)
shares = np.linspace(0, 1, 9)
between = interpolate(model, pairs[[0, 2]], pairs[[1, 3]], shares, prompts=["0", "3"])
rows = {f"{space}, {'03'[i]}": between[space][i] for i in range(2) for space in between}
rows_figure(rows, ["A", *(f"{share:.2f}" for share in shares[1:-1]), "B"])

# %% [markdown]
# ## A published one
#
# With a network: Google's DDPM of CIFAR-10, 35.7 million parameters, as diffusers keeps it. `SOURCE` may be any folder
# or repository with a U-Net of diffusers. On a CPU ten steps of eight images take a few minutes.

# %%
USE_PUBLISHED = False  # @param {type:"boolean"}
SOURCE = "hf://google/ddpm-cifar10-32"  # @param {type:"string"}

if USE_PUBLISHED:
    published = vit_jax.load(SOURCE)
    drawn = published.sample(8, sampler="ddim", steps=10)
    plt.imshow(np.concatenate(list(drawn.images), axis=1))
    plt.axis("off")
    plt.show()
