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
# # Fine-tune a Vision Transformer on your own folder
#
# A pretrained model has seen many images; you have a few of your own, sorted into a folder per class. Fine-tuning goes
# on from the pretrained weights and gives you a model for *your* classes. At the end of this notebook you have one, a
# look at what it gets wrong, and a file that other libraries read.
#
# As it stands it runs on a CPU in about a minute, without network: the folder is made of handwritten digits, and the
# pretrained model is a tiny one that is trained here. With `USE_REAL` it takes a published ViT-B/16 and your folder;
# you want a GPU for that.

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

# %%
USE_REAL = False  # @param {type:"boolean"}
# With USE_REAL: FOLDER/cat/*.jpg, FOLDER/dog/*.jpg, ...; or with train/ and test/ above the classes.
FOLDER = "photos"  # @param {type:"string"}

# %% [markdown]
# ## A folder per class
#
# The names of the folders are the names of the classes. Without `train/` and `test/` a tenth of the images is held out
# for testing, chosen by a hash of each file's name. Here are the digits 6 to 9 of scikit-learn, 12 images a class to
# train on and the others, some 165 a class, to test on.

# %%
from pathlib import Path

import cv2
import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

jax.config.update("jax_compilation_cache_dir", str(Path("compiled").absolute()))  # what runs twice compiles once

if not USE_REAL:
    written = load_digits()
    for digit, name in ((6, "six"), (7, "seven"), (8, "eight"), (9, "nine")):
        for number, image in enumerate(written.images[written.target == digit]):
            target = Path(FOLDER, "train" if number < 12 else "test", name)
            target.mkdir(parents=True, exist_ok=True)
            grey = np.rint(image * (255 / 16)).astype(np.uint8)  # the file counts ink in 0..16
            cv2.imwrite(f"{target}/{number:03d}.png", grey)

from vit_jax.data.decode import decode
from vit_jax.data.sources import folder

source = folder.build(FOLDER, "train")
print(f"{len(source)} images to train on, of {len(source.label_names)} classes: {', '.join(source.label_names)}")
shown = np.random.default_rng(0).permutation(len(source))[:20]
figure, grid = plt.subplots(2, 10, figsize=(10, 2.4), layout="constrained")
for axes, i in zip(grid.flat, shown, strict=False):
    axes.imshow(decode(source[i]["image"]))
    axes.set_title(source.label_names[source.labels[i]], fontsize=9)
for axes in grid.flat:
    axes.axis("off")
plt.show()

# %% [markdown]
# ## A pretrained model
#
# Online it is a file of published weights; `vit_jax.load` reads those of timm, transformers and Google by their names.
# Offline it is a ViT with 3 blocks of width 64, trained on the digits 0 to 5 at 16x16 pixels: it has seen handwriting,
# but none of the four classes in the folder.

# %%
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

PRETRAINING_STEPS = 200  # @param {type:"integer"}

if USE_REAL:
    START = "hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k"
else:
    START = "runs/pretrained"
    warmup = min(40, PRETRAINING_STEPS // 5)
    changes = {"steps": str(PRETRAINING_STEPS), "log_every": "50", "optim.schedule.warmup_steps": str(warmup)}
    config = override(load_config("digits"), changes)
    config["model"]["posemb_resize"] = "bicubic_antialias"  # as timm interpolates positions, for the export at the end
    config["data"]["train"]["classes"] = config["data"]["eval"]["classes"] = list(range(6))
    config["evals"] = {"val": {"name": "classification"}}
    summary = train(build_experiment(config), START)
    print(f"accuracy on held-out images of the digits 0 to 5: {summary['val/accuracy']:.1%}")

# %% [markdown]
# ## Fine-tune
#
# Two things change with respect to the pretrained model.
#
# - **The head** is new, since it has other classes, and it **starts at zero**: all classes have the same score, and the
#   gradient that reaches the trunk through a zero matrix is zero. The first step moves the head alone, and the trunk
#   follows as the head comes to mean something. A random head would send random gradients into good features.
# - **The resolution** may be higher (here 32x32 instead of 16x16). The patches keep their size, so there are more of
#   them: a grid of 8x8 instead of 4x4. Everything in a Transformer works with any number of tokens except the position
#   embeddings, one for each place; these are interpolated to the finer grid.
#
# Both are in the shipped config `finetune`, which you would use from the command line as
# `vit_jax train --config finetune:init=START,data=FOLDER --workdir runs/finetuned`. The report below the cell says what
# was taken over, what was resized, and what is new (`missing`).

# %%
STEPS = 100  # @param {type:"integer"}

if USE_REAL:
    arguments = f"init={START},data={FOLDER},res=384,steps={STEPS},lr=0.01,batch=32,microbatch=8"
    changes = {}
else:
    arguments = f"init={START},data={FOLDER},res=32,steps={STEPS},batch=32"
    # A digit that is mirrored is another sign, and half of one may be another digit: shift and turn it a little.
    changes = {
        "data.transform.crop": "none",
        "data.transform.flip": "false",
        "data.transform.rotate": "12",
        "data.transform.shift": "0.06",
        "data.transform.border": "constant",
    }
every = {"eval_every": str(max(1, STEPS // 5)), "log_every": str(max(1, STEPS // 5)), "checkpoint.every": "none"}
config = override(load_config(f"finetune:{arguments}"), changes | every)
if not USE_REAL:
    # The config's SGD is for large models. AdamW suits a tiny one, and is fairer to the one from scratch below.
    schedule = dict(name="cosine", warmup_steps=STEPS // 10)
    config["optim"] = dict(name="adamw", learning_rate=1e-3, weight_decay=0.0, clip_norm=1.0, schedule=schedule)
finetuned = train(build_experiment(config), "runs/finetuned")

# %% [markdown]
# The same again from random weights: same model, images and steps, only without `init_from`. Without this line in the
# figure, a good accuracy would not tell you whether pretraining had anything to do with it.

# %%
scratch = None
if not USE_REAL:  # a B/16 from scratch on a few images is hours for a foregone conclusion
    scratch = train(build_experiment(config | {"init_from": None}), "runs/scratch")

# %%
from vit_jax.training.metrics import read_metrics

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
runs = {"fine-tuned": ("runs/finetuned", "#0072B2"), "from scratch": ("runs/scratch", "#D55E00")}
for label, (workdir, colour) in runs.items():
    if Path(workdir).exists():
        rows = read_metrics(Path(workdir))
        for axes, key in ((left, "train/loss"), (right, "val/accuracy")):
            points = [(row["step"], row[key]) for row in rows if key in row]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=label)
left.set(title="training loss", xlabel="step", ylabel="nats", ylim=(0, None))
right.set(title="accuracy on held-out images", xlabel="step", ylim=(0, 1.02))
right.axhline(1 / len(source.label_names), color="0.7", linewidth=1, zorder=0, label="chance")
for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
right.legend(frameon=False, loc="lower right")
plt.show()
for label, summary in (("fine-tuned", finetuned), ("from scratch", scratch)):
    if summary:
        print(f"{label}: {summary['val/accuracy']:.1%} of {summary['val/examples']:.0f} held-out images")

# %% [markdown]
# ## What it gets wrong
#
# `vit_jax.load` needs nothing but the workdir: the checkpoint carries the names of the classes and how images are to be
# resized and normalised. The held-out images that the model is least sure of come first; a wrong answer is red,
# with the right one below it.

# %%
import vit_jax

model = vit_jax.load("runs/finetuned")
held_out = folder.build(FOLDER, "test")
images = np.stack([model.preprocess(held_out[i]["image"]) for i in range(len(held_out))])
logits = np.concatenate([model.logits(part) for part in np.array_split(images, max(1, len(images) // 64))])
probabilities = np.asarray(jax.nn.softmax(logits))
answers = probabilities.argmax(axis=1)

figure, grid = plt.subplots(2, 8, figsize=(10, 3.6), layout="constrained")
for axes, i in zip(grid.flat, np.argsort(probabilities.max(axis=1)), strict=False):
    axes.imshow(decode(held_out[int(i)]["image"]))
    right = answers[i] == held_out.labels[i]
    title = f"{model.labels[answers[i]]} {probabilities[i].max():.0%}"
    title += "" if right else f"\nis {model.labels[held_out.labels[i]]}"
    axes.set_title(title, fontsize=9, color="black" if right else "#C00000")
for axes in grid.flat:
    axes.axis("off")
plt.show()

# %%
classes = len(model.labels)
confusion = np.zeros((classes, classes), int)
np.add.at(confusion, (held_out.labels, answers), 1)
if classes <= 20:
    figure, axes = plt.subplots(figsize=(1.5 + 0.6 * classes, 1 + 0.6 * classes), layout="constrained")
    axes.imshow(confusion / confusion.sum(axis=1, keepdims=True), vmin=0, vmax=1, cmap="Blues")
    for row, column in np.ndindex(classes, classes):
        dark = confusion[row, column] > 0.5 * confusion[row].sum()
        axes.text(column, row, confusion[row, column], ha="center", va="center", color="white" if dark else "0.3")
    axes.set(xlabel="the model says", ylabel="the folder says")
    axes.set_xticks(range(classes), model.labels)
    axes.set_yticks(range(classes), model.labels)
    axes.spines[:].set_visible(False)
    plt.show()

# %% [markdown]
# ## Take it with you
#
# This cell, or `vit_jax convert runs/finetuned exported/model.safetensors`, writes a safetensors file in timm's names,
# with a `config.json` that says how timm is to build the model. It only renames and transposes, so the file, loaded
# again, gives the same logits.

# %%
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.source import open_source

export(open_source("runs/finetuned"), Path("exported/model.safetensors"), "timm")
again = vit_jax.load("exported/model.safetensors")
print("classes:", ", ".join(again.labels))
print("largest difference of a logit:", float(np.abs(again.logits(images[:32]) - model.logits(images[:32])).max()))
