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
# # Images as tokens: one after the other, some at a time, or scale by scale
#
# A text is a row of tokens, and a model of texts draws the next one again and again. Can images be drawn so? Two parts
# are needed: a **tokenizer**, which turns an image into a few numbers out of a list and back, and a **generator**,
# which learns which of these numbers belong together.
#
# Here both are small, and the images are handwritten digits. Three generators learn the same images:
#
# - **raster** ([VQGAN](https://arxiv.org/abs/2012.09841)): one token after the other, as one reads;
# - **MaskGIT** ([2202.04200](https://arxiv.org/abs/2202.04200)): all at once, of which the surest are kept, and again;
# - **VAR** ([2404.02905](https://arxiv.org/abs/2404.02905)): a coarse image first, then finer ones, each in one pass.
#
# What differs is the number of passes through the network that an image takes. At the end quality stands against
# passes. Nothing is downloaded.

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
# ## A tokenizer
#
# A VQ-VAE: convolutions make of an image of 16x16 pixels 8x8 vectors, each is replaced by the nearest one of a list of
# 64, and convolutions make an image of these. The config is `configs/fashion16.py`; here it learns digits.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import vit_jax
from vit_jax.training.config import load_config, override
from vit_jax.training.evaluation import evaluate_loaded
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

STEPS = 400  # @param {type:"integer"}
DIGITS = {"name": "digits", "split": "train"}
HELD_OUT = {"name": "digits", "split": "test"}


def fit(model, steps=STEPS, tokenizer=None, **sizes):
    """Trains a model of `fashion16` on digits, and loads it."""
    of = f",tokenizer=runs/{tokenizer}" if tokenizer else ""
    config = load_config(f"fashion16:model={model},codes=64,steps={steps},smoke{of}")
    config = override(config, {f"model.{name}": str(value) for name, value in sizes.items()})
    config["data"] |= {"train": DIGITS, "eval": HELD_OUT, "eval_batch_size": 120}
    config |= {"batch_size": 32, "log_every": steps, "evals": {}}
    train(build_experiment(config), f"runs/{model}")
    return vit_jax.load(f"runs/{model}")


def show(rows, width=8.0):
    """Images side by side, a row for each name."""
    count = len(next(iter(rows.values())))
    _, grid = plt.subplots(len(rows), count, figsize=(width, width / count * len(rows)), squeeze=False)
    for (name, images), line in zip(rows.items(), grid, strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    plt.show()


vq = fit("vq", width=24)
test = vit_jax.data.sources.digits.build("test")
some = np.linspace(0, len(test) - 1, 12, dtype=int)
images = np.stack([vq.preprocess.to_uint8(test[i]["image"]) for i in some])
found = vq.outputs({"image": images}, ("reconstruction", "indices"))
show({"images": images, "through 64 tokens": found["reconstruction"]})
print("the tokens of the first:\n", np.asarray(found["indices"][0]).reshape(8, 8))

# %% [markdown]
# An image of 16x16 pixels in three colours has 6,144 bits; 64 tokens out of 64 have 384.
#
# ## The same, from coarse to fine
#
# VAR's tokenizer gives a map of one token, of 2x2, of 4x4 and of 8x8: each says what the ones before have left out.

# %%
multiscale = fit("multiscale", channels=16)
model, grids = multiscale.model, multiscale.model.grids((16, 16))
collections = {"params": multiscale.params, **multiscale.model_state}


@jax.jit
def after_each_map(x):
    tokens = model.apply(collections, x, method="tokenize")
    return model.apply(collections, tokens, grids, method="detokenize_scales")


steps = np.clip(np.asarray(after_each_map(multiscale.preprocess.normalize(images))) / 2 + 0.5, 0, 1)
show({"images": images} | {f"up to {rows}x{rows}": x for (rows, _), x in zip(grids, steps, strict=True)})

# %% [markdown]
# ## Three generators
#
# The tokenizers stay as they are now; the generators never see a pixel. One training image in ten is shown without its
# class, so that a sample may be pushed further away from what has no class (guidance).

# %%
size = {"width": 64, "depth": 2, "num_heads": 4}
models = {
    "raster": fit("raster", 2 * STEPS, "vq", **size),
    "MaskGIT": fit("maskgit", 2 * STEPS, "vq", **size),
    "VAR": fit("var", 2 * STEPS, "multiscale", **size),
}
settings = {
    "raster": {"raster": {"guidance": 2.0}},
    "MaskGIT": {f"MaskGIT, {n}": {"steps": n, "guidance": 2.0} for n in (1, 2, 4, 8, 16)},
    "VAR": {"VAR": {"guidance": 2.0}},
}
show({name: model.sample(10, seed=1, **list(settings[name].values())[-1]).images for name, model in models.items()})

# %% [markdown]
# ## Which of them is better?
#
# Somebody has to judge: a classifier of digits, trained beside. Its 64 features of 400 samples are compared with those
# of real digits by the **Frechet distance** (with the features of one network of 2015 it would be called FID), and it
# is asked whether it sees the digit that was meant. As many other real digits stand beside.

# %%
judge = fit("judge")
shared = {"judge": "runs/judge", "source": HELD_OUT, "count": 400}


def measured(model, how):
    evals = {
        "distance": {"name": "frechet", "train": DIGITS, "settings": how, **shared},
        "seen": {"name": "judged_accuracy", "settings": how, **shared},
    }
    found = evaluate_loaded(model, {**model.metadata["config"], "evals": evals})
    distance, seen = (
        next(x for name, x in found.items() if name.startswith(kind)) for kind in ("distance/f", "seen/a")
    )
    return distance, seen, found["distance/real"]


points = {}
for name, model in models.items():
    for said, how in settings[name].items():
        tokens = {"raster": 64, "VAR": 4}.get(name, how.get("steps"))
        distance, seen, real = measured(model, how)
        points.setdefault(name, []).append((tokens, distance, seen))
        print(f"{said:12} {tokens:3} passes, distance {distance:7.2f} (real ones {real:.2f}), seen right {seen:.0%}")

figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for axes, column, label in ((panels[0], 1, "Frechet distance to real digits"), (panels[1], 2, "share seen right")):
    for name, found in points.items():
        axes.plot([p[0] for p in found], [p[column] for p in found], marker="o", label=name)
    axes.set(xscale="log", xlabel="passes through the network", ylabel=label, xticks=[1, 4, 16, 64])
    axes.set_xticklabels([1, 4, 16, 64])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
panels[0].set_yscale("log")
panels[0].axhline(real, color="gray", linestyle=":", label="real digits")
panels[0].legend()
plt.show()

# %% [markdown]
# Passes are what drawing costs: each reads all parameters once. With 64 of them raster looks back at every token before
# it chooses the next; MaskGIT in one pass chooses all without knowing the others, and gets better with more passes, in
# which it may look; VAR has as many passes as scales. Guidance makes all of them sure of the class, at the price of
# variety, which costs distance: try less of it.
#
# How long this takes on your machine says `vit_jax bench sample --checkpoint runs/var`. On garments, in ten minutes
# each, with continuous tokens (MAR, HART) too: `python benchmarks/image_generation.py`.
