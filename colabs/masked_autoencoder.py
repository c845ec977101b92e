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
# # Learn from images without labels: a masked autoencoder
#
# A masked autoencoder ([He et al., 2021](https://arxiv.org/abs/2111.06377)) learns by filling in what is missing.
# Three quarters of an image's patches are taken away; the encoder, an ordinary ViT, sees the others only, and a small
# decoder has to predict the pixels of those that it did not see. To do that well one has to know what things look
# like. No label is needed.
#
# Here a small one is pretrained on scikit-learn's handwritten digits, in about two minutes on a CPU and without
# network. You will see what it reconstructs of digits that it never saw, and what its encoder is worth where labels are
# few.

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
# ## The run
#
# It is a config like any other. The model is the encoder; what is MAE's own is in the section `task`. Digits of 24x24
# pixels are cut into 36 patches of 4x4, of which the encoder sees 9.
#
# The paper predicts the pixels of a patch up to their brightness and contrast (`normalize_pixels`), which gives
# somewhat better features. We predict plain pixels, so that the pictures below are all the model's own work.

# %%
import matplotlib.pyplot as plt
import numpy as np

import vit_jax
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

STEPS = 2000  # @param {type:"integer"}
MASK_RATIO = 0.75  # @param {type:"number"}

digits = {side: {"name": "digits", "split": side} for side in ("train", "test")}


def config_of(steps, **sections):
    """`configs/digits.py` with all ten digits at 24x24 pixels."""
    warmup = str(min(60, max(steps // 5, 1)))
    config = override(load_config("digits"), {"steps": str(steps), "optim.schedule.warmup_steps": warmup})
    config["data"] |= {"image_size": [24, 24], "train": digits["train"], "eval": digits["test"]}
    config["data"]["transform"] |= {"rotate": 10.0, "shift": 0.1}
    config["model"] |= {"posemb": "sincos2d_mae", "gelu": "exact"}
    config["log_every"] = 200
    return config | sections


decoder = {"decoder_width": 48, "decoder_depth": 2, "decoder_heads": 3}
task = {"name": "mae", "mask_ratio": MASK_RATIO, "normalize_pixels": False, **decoder}
knn = {"knn": {"name": "knn", "train": digits["train"]}}
config = config_of(STEPS, task=task, evals=knn)
# At first the loss stays on a plateau, where all images get the same: many small steps leave it sooner than few large.
config["batch_size"], config["log_every"] = 64, 500
config["optim"] |= {"learning_rate": 1.5e-3, "b2": 0.95}
train(build_experiment(config), "runs/mae")

# %% [markdown]
# The loss is the mean squared error of the masked patches, on pixels from -1 to 1.

# %%
from pathlib import Path

from vit_jax.training.metrics import read_metrics

rows = [row for row in read_metrics(Path("runs/mae")) if "train/loss" in row]
for row in rows:
    print(f"after {row['step']:4} steps: loss {row['train/loss']:.3f}")

# %% [markdown]
# ## What it reconstructs
#
# `vit_jax.load` gives the encoder and, since this is the checkpoint of an autoencoder, its decoder. Each triple below
# is a held-out digit: what the encoder is shown, what the decoder makes of it, and the digit. The patches that were
# shown are copied into the reconstruction.

# %%
from vit_jax.data.sources import digits as digits_source
from vit_jax.inspection.reconstruction import reconstruct

model = vit_jax.load("runs/mae")
held_out = digits_source.build("test")
chosen = np.random.default_rng(0).permutation(len(held_out))[:12]
images = np.stack([model.preprocess.to_uint8(held_out[int(i)]["image"]) for i in chosen])
found = reconstruct(model, images)

figure, grid = plt.subplots(4, 9, figsize=(9, 4.4), layout="constrained")
for i, row in enumerate(np.stack([found.masked, found.completed, images], axis=1)):
    for axes, image, title in zip(grid[i // 3, 3 * (i % 3) :], row, ("shown", "reconstructed", "digit"), strict=False):
        axes.imshow(image)
        axes.axis("off")
        if i < 3:
            axes.set_title(title, fontsize=9)
plt.show()

# %% [markdown]
# Where the visible patches leave several digits possible, it cannot know, and a mean squared error makes it hedge: the
# strokes get pale and broad. How sure it is depends on *which* patches it is shown. The same digit with six masks:

# %%
one = np.repeat(images[:1], 6, axis=0)
found = reconstruct(model, one, seed=1)
figure, grid = plt.subplots(2, 6, figsize=(8, 2.8), layout="constrained")
for axes, image in zip(grid.flat, (*found.masked, *found.completed), strict=True):
    axes.imshow(image)
    axes.axis("off")
plt.show()

# %% [markdown]
# ## What the encoder has learned
#
# The decoder is thrown away. Are images of the same digit now close to each other? Each held-out digit is given the
# label of its nearest neighbours among the training images, by the encoder's features: those of the pretrained encoder,
# those of the same encoder with random parameters, and raw pixels.

# %%
from vit_jax.training.evaluation import evaluate_loaded

config = config_of(1, task=task, evals=knn | {"pixels": knn["knn"] | {"features": "pixels"}})
config["optim"]["schedule"] = {"name": "constant"}
config["optim"]["learning_rate"] = 0.0
train(build_experiment(config), "runs/untrained")

config["evals"] = {name: {**section, "every": None} for name, section in config["evals"].items()}
trained, untrained = (evaluate_loaded(vit_jax.load(f"runs/{name}"), config) for name in ("mae", "untrained"))
for name, accuracy in (
    ("raw pixels", trained["pixels/accuracy"]),
    ("random parameters", untrained["knn/accuracy"]),
    ("masked autoencoder", trained["knn/accuracy"]),
):
    print(f"{name:20} {accuracy:.1%}")

# %% [markdown]
# Centred digits of one size are easy for pixels, so do not expect to beat them here by much; docs/results.md has a
# table on harder images, with other methods beside this one.
#
# ## Few labels
#
# What pretraining is for: ten labelled images a class, all other digits without labels. The same ViT with a classifier
# on top is trained on them twice, from random parameters and from the pretrained encoder (`init_from`). Five images a
# class more or fewer move such figures by some points; a claim about a method needs several draws and seeds.

# %%
FINETUNE_STEPS = 200  # @param {type:"integer"}

few = digits["train"] | {"per_class": 10}
accuracy = {}
for name, start in (("from scratch", None), ("from the masked autoencoder", {"encoder": "runs/mae"})):
    config = config_of(FINETUNE_STEPS, task={"name": "classify"}, evals={"val": {"name": "classification"}})
    config["data"]["train"], config["batch_size"] = few, 100
    config["optim"]["learning_rate"] = 1e-3
    config["init_from"] = start
    accuracy[name] = train(build_experiment(config), f"runs/{name}")["val/accuracy"]
for name, value in accuracy.items():
    print(f"{name:28} {value:.1%} of {len(held_out)} held-out digits")

# %%
figure, axes = plt.subplots(figsize=(6, 1.8), layout="constrained")
bars = axes.barh(list(accuracy), list(accuracy.values()), color=["0.6", "#0072B2"])
axes.bar_label(bars, [f"{value:.1%}" for value in accuracy.values()], padding=4)
axes.set(xlim=(0, 1.1), xlabel="accuracy with ten labels a class", xticks=np.linspace(0, 1, 6))
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Things to try: `MASK_RATIO = 0.25`, where the task becomes easy and the features worse; `normalize_pixels=True`; more
# steps. On images of your own, `vit_jax visualize --checkpoint RUN photo.jpg` draws the same reconstructions, and
# `configs/mae_i1k.py` is the paper's run.
