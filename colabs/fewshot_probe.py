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
# # Few-shot probe: which of two models has the better features?
#
# A *probe* asks what a frozen model has already made of an image. The model turns every image into a vector, its
# *features*; nothing of the model is trained any further. A linear classifier is then fitted to the features of a few
# labelled images (*shots*) of each class, and tested on others. If few examples are enough, the features already put
# apart what the labels put apart.
#
# This notebook probes two checkpoints and compares them. As it stands it trains two tiny models, which takes a minute
# on a CPU, and needs no network. With `USE_REAL` it compares two published models, on your own folder of images if
# you name one.

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
# A folder with a folder per class, for the published models; empty for the digits.
FOLDER = ""  # @param {type:"string"}

# %% [markdown]
# ## Two models
#
# Both have the same architecture, see the same number of images, and are trained to name handwritten digits. One is
# shown the digits 0 to 6, the other only 0 and 1. Neither ever sees a 7, 8 or 9: those are for the probe. Does a model
# that had to tell more classes apart learn features that are of more use for *other* classes?

# %%
import matplotlib.pyplot as plt
import numpy as np

import vit_jax
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

STEPS = 200  # @param {type:"integer"}

if USE_REAL:
    CHECKPOINTS = {
        "ViT-B/16": "hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
        "ViT-Ti/16": "hf://timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    }
else:
    CHECKPOINTS = {"trained on 0-6": "runs/seven_classes", "trained on 0-1": "runs/two_classes"}
    changes = {"steps": str(STEPS), "log_every": "50", "optim.schedule.warmup_steps": str(min(40, STEPS // 5))}
    for workdir, classes in zip(CHECKPOINTS.values(), (range(7), range(2)), strict=True):
        config = override(load_config("digits"), changes)
        config["data"]["train"]["classes"] = config["data"]["eval"]["classes"] = list(classes)
        config["evals"] = {"val": {"name": "classification"}}
        summary = train(build_experiment(config), workdir)
        print(f"{workdir}: accuracy {summary['val/accuracy']:.1%} on held-out images of its own classes")

models = {name: vit_jax.load(path) for name, path in CHECKPOINTS.items()}

# %% [markdown]
# ## What the probe sees
#
# The images of the probe are turned by up to 30 degrees and shifted by up to 15 %, as in training, so that comparing
# them pixel by pixel is of little help. The labelled images (the *train* side) and the images that the probe is tested
# on are kept apart.

# %%
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.sources import digits, folder
from vit_jax.data.transforms import supervised


def images_of(split, preprocess):
    """Images of one split as the model needs them [N, H, W, 3], their labels [N], and the names of the classes."""
    if USE_REAL and FOLDER:
        source, view = folder.build(FOLDER, split), preprocess
    else:
        source = digits.build(split, classes=(7, 8, 9))
        moved = {"rotate": 30, "shift": 0.15, "border": "constant"}
        view = supervised.build(preprocess.image_size, crop="none", flip=False, **moved)
    pipeline = EvalPipeline(source, view, batch_size=32, seed=0 if split == "train" else 1)
    batches = [(b["image"][b["valid"] > 0], b["label"][b["valid"] > 0]) for b in pipeline.iterate()]
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    return images, labels, source.label_names


preprocess = next(iter(models.values())).preprocess
images, labels, names = images_of("test", preprocess)
figure, grid = plt.subplots(2, 10, figsize=(10, 2.4), layout="constrained")
shown = np.random.default_rng(0).permutation(len(images))[:20]
for axes, i in zip(grid.flat, shown, strict=False):
    axes.imshow(images[i])
    axes.set_title(names[labels[i]], fontsize=9)
for axes in grid.flat:
    axes.axis("off")
plt.show()

# %% [markdown]
# ## Features
#
# The features are what the classification head sees: for these tiny models the mean of the tokens after the last
# block, 64 numbers an image. The *raw pixels* of the same images are the baseline: a model whose features are no better
# than its input has learned nothing that helps here.


# %%
def features_of(model, images):
    """Frozen features [N, D] in batches of one size, so that the model compiles once."""
    rows = []
    for start in range(0, len(images), 32):
        batch = images[start : start + 32]
        full = np.concatenate([batch, np.repeat(batch[:1], 32 - len(batch), axis=0)])
        rows.append(np.asarray(model.features(model.preprocess.normalize(full)))[: len(batch)])
    return np.concatenate(rows)


probed = {}  # name -> ((features, labels) to fit the probe to, (features, labels) to test it on)
for name, model in models.items():
    sets = [images_of(split, model.preprocess)[:2] for split in ("train", "test")]
    probed.setdefault("raw pixels", tuple((x.reshape(len(x), -1) / 255, y) for x, y in sets))
    probed[name] = tuple((features_of(model, x), y) for x, y in sets)
for name, ((train_features, _), (test_features, _)) in probed.items():
    print(f"{name}: {len(train_features)} + {len(test_features)} images, {train_features.shape[1]} numbers each")

# %% [markdown]
# The first two principal components of the features give a rough idea of them. A probe sees all directions, so classes
# that overlap here may still be apart.

# %%
from sklearn.decomposition import PCA

figure, grid = plt.subplots(1, len(probed), figsize=(4 * len(probed), 3.6), layout="constrained")
for axes, (name, (_, (features, labels))) in zip(grid, probed.items(), strict=True):
    points = PCA(2).fit_transform((features - features.mean(0)) / (features.std(0) + 1e-5))
    for label in np.unique(labels)[:10]:
        axes.scatter(*points[labels == label].T, s=14, alpha=0.7, label=names[label])
    axes.set(title=name, xticks=[], yticks=[])
grid[-1].legend(title="class", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Accuracy against shots
#
# The probe is the one of the ViT paper's few-shot numbers, to the letter of the public code: least squares in closed
# form, targets of -1 and 1, a fixed penalty. There is nothing to tune, which is what makes two models comparable.
#
# One draw of 1 image a class says little: it may be a lucky one. Every number of shots is therefore drawn 20 times. The
# **bars are one standard deviation over the draws**: how far a single experiment may be off. The mean of 20 is known
# about 4.5 times better (standard deviation / √20), as far as the draws go; other training seeds and other test images
# would add their own spread, which is not shown.

# %%
from vit_jax.evaluators.fewshot import fewshot_accuracy

SHOTS = (1, 2, 5, 10, 25)
DRAWS = 20
accuracy = {  # name -> [shots, draws]
    name: np.array([[fewshot_accuracy(*sets, k, draw) for draw in range(DRAWS)] for k in SHOTS])
    for name, sets in probed.items()
}

colours = dict(zip(probed, ("0.5", "#0072B2", "#D55E00"), strict=True))
figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
for i, (name, table) in enumerate(accuracy.items()):
    at = np.array(SHOTS) * 1.04 ** (i - 1)  # side by side, so that the bars do not hide each other
    style = "--" if name == "raw pixels" else "-"
    axes.errorbar(at, table.mean(1), table.std(1), fmt=style, marker="o", capsize=3, color=colours[name], label=name)
axes.axhline(1 / len(names), color="0.7", linewidth=1, zorder=0)
axes.annotate("chance", (SHOTS[-1], 1 / len(names)), va="bottom", ha="right", color="0.5")
axes.set(xscale="log", xlabel="labelled images of each class", ylabel="accuracy on held-out images")
axes.set_xticks(SHOTS, [str(k) for k in SHOTS])
axes.minorticks_off()
axes.grid(alpha=0.3)
axes.spines[["top", "right"]].set_visible(False)
figure.legend(loc="outside upper center", ncols=3, frameon=False)
plt.show()

# %% [markdown]
# ## Is the difference real?
#
# The bars of two models may overlap although one is better in nearly every draw: a lucky draw is lucky for both. All
# models were given the *same* draws, so we may look at the difference draw by draw, and most of the luck cancels.

# %%
ours, theirs = models
difference = 100 * (accuracy[ours] - accuracy[theirs])
figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
jitter = np.random.default_rng(0).uniform(-0.12, 0.12, difference.shape)
axes.scatter(np.arange(len(SHOTS))[:, None] + jitter, difference, s=14, alpha=0.5, color="#0072B2", linewidths=0)
error = difference.std(1, ddof=1) / np.sqrt(DRAWS)
axes.errorbar(range(len(SHOTS)), difference.mean(1), 2 * error, fmt="_", markersize=22, capsize=5, color="black")
axes.axhline(0, color="0.7", linewidth=1, zorder=0)
axes.set_xticks(range(len(SHOTS)), [str(k) for k in SHOTS])
axes.set(xlabel="labelled images of each class", ylabel="difference in points")
axes.set_title(f"{ours}, less {theirs}: a dot a draw; mean ± 2 standard errors", fontsize=10)
axes.spines[["top", "right"]].set_visible(False)
plt.show()
for k, row in zip(SHOTS, difference, strict=True):
    print(f"{k:2} shots: {row.mean():+5.1f} points, ahead in {(row > 0).sum()} of {DRAWS} draws")

# %% [markdown]
# In the run that is kept with this notebook, the features of the model that told seven classes apart beat raw pixels at
# every number of shots, most clearly at few. Those of the model that only told 0 from 1 are of little more use than
# pixels at first, and then of less: what it did not need it has thrown away, and no number of labels brings it back.
# That is one training run of each; a claim about a method needs several.
#
# ## The same without a notebook
#
# `fewshot` is an evaluator: a config names it and `vit_jax evaluate` runs it on any checkpoint, one of yours or a
# published one. From Python:

# %%
from vit_jax.training.evaluation import evaluate_loaded

config = load_config("digits")  # its evaluators are the probe on 7 to 9 and the same on raw pixels
config["evals"] = {"fewshot": config["evals"]["fewshot"] | {"shots": SHOTS, "seeds": DRAWS}}
if not USE_REAL:
    measured = evaluate_loaded(models[ours], config)
    for k, row in zip(SHOTS, accuracy[ours], strict=True):
        print(f"{k:2} shots: evaluator {measured[f'fewshot/{k}shot']:.4f}, above {row.mean():.4f}")

# %% [markdown]
# Things to try: a model that was not trained at all (`STEPS = 1`), more draws, or `USE_REAL` on a folder of your own.
