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
# # Your own picture, your own words: zero-shot classification
#
# [CLIP](https://arxiv.org/abs/2103.00020) learns from pictures and what is said of them which text belongs to which
# picture. Afterwards any text is a class: write down what a picture could show, and the model says which of it fits
# best. No classifier is trained, and the classes may be ones that nobody thought of before.
#
# Here a small one is trained in about a minute on a CPU, without network, on pictures that the notebook draws: shapes
# in colours, with captions. You will see it name combinations that it never saw, most of them rightly, among one
# another. With the name of published weights the same cells run on photographs, yours too.

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
# ## What to look at
#
# `WEIGHTS` is empty for the small model, or says where published weights are, which photographs need: for example
# `hf://openai/clip-vit-base-patch32` (600 MB, with a network and the extra `hub`), or a file. `PICTURE` is the path of
# a picture of yours; empty, one is drawn. `LABELS` are what it could show, with commas between.

# %%
WEIGHTS = ""  # @param {type:"string"}
PICTURE = ""  # @param {type:"string"}
LABELS = "a large yellow star, a small yellow star, a large blue star, a large yellow ring"  # @param {type:"string"}

# %% [markdown]
# ## Pictures and captions
#
# Six shapes, six colours and two sizes, at random places. Of every shape one colour is held out: the model sees stars,
# and it sees yellow, but never a yellow star.

# %%
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np

COLOURS = {
    "red": (215, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 210), "yellow": (245, 210, 50),
    "purple": (140, 50, 160), "black": (30, 30, 30),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZE = 32  # pixels


def polygon(corners, points):
    """A regular polygon, or a star between two radii, around 0."""
    angles = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.resize(points, corners)[:, None]


def draw(size, colour, shape, rng):
    """A shape on white, drawn four times as large and made small, so that its edges are smooth."""
    scale = 4
    radius = {"small": 5, "large": 10}[size] * rng.uniform(0.9, 1.1)
    at = rng.uniform(radius + 1, SIZE - radius - 1, 2)
    paint = tuple(int(v) for v in np.clip(np.array(COLOURS[colour]) + rng.integers(-20, 21, 3), 0, 255))
    image = np.full((SIZE * scale, SIZE * scale, 3), rng.integers(235, 256), np.uint8)
    centre, r = tuple((at * scale).astype(int)), int(radius * scale)
    if shape == "circle":
        cv2.circle(image, centre, r, paint, -1)
    elif shape == "ring":
        cv2.circle(image, centre, int(0.8 * r), paint, int(0.4 * r))
    elif shape == "cross":
        for dx, dy in ((1, 0), (0, 1)):
            ends = [(int(centre[0] + s * dx * r), int(centre[1] + s * dy * r)) for s in (-1, 1)]
            cv2.line(image, *ends, paint, int(0.55 * r))
    else:
        corners = {"square": polygon(4, [1]), "triangle": polygon(3, [1.1]), "star": polygon(10, [1.1, 0.5])}[shape]
        if shape == "square":
            corners = corners @ np.array([[0.71, 0.71], [-0.71, 0.71]])
        cv2.fillPoly(image, [(corners * r + np.array(centre)).astype(np.int32)], paint)
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


kinds = [(size, colour, shape) for size in ("small", "large") for colour in COLOURS for shape in SHAPES]
names = [f"a {size} {colour} {shape}" for size, colour, shape in kinds]
held_out = [i for i in range(len(kinds)) if i % 6 == (i // 6) % 6]
seen = [i for i in range(len(kinds)) if i not in held_out]
rng = np.random.default_rng(0)
for file, which, times in (("train", seen, 40), ("seen", seen, 3), ("new", held_out, 10)):
    labels = np.tile(np.arange(len(which)), times)
    images = np.stack([draw(*kinds[which[k]], rng) for k in labels])
    texts = np.array([names[i] for i in which])
    np.savez(f"{file}.npz", images=images, labels=labels, label_names=texts, text=texts[labels])
print(
    f"{len(seen)} kinds of pictures to learn from, {len(held_out)} held out:",
    ", ".join(names[i] for i in held_out[:4]),
    "...",
)

# %% [markdown]
# ## The run
#
# A config like any other: the task is `clip`, the model two towers. In every batch each picture is to find its caption
# among all captions, and each caption its picture. The evaluator `zero_shot` makes classes of the names of the source's
# labels; `new` are the combinations that training never shows, among each other.

# %%
import vit_jax
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.metrics import read_metrics

STEPS = 400  # @param {type:"integer"}

source = {"name": "arrays", "fields": ["text"]}
text = {"name": "tokens", "tokenizer": "bytes", "length": 48, "long": "cut"}
zero_shot = {"name": "zero_shot", "templates": "plain"}
config = {
    "seed": 0,
    "steps": STEPS,
    "batch_size": 48,
    "task": {"name": "clip"},
    "model": {
        "name": "clip",
        "variant": "mu/4",
        "embed_dim": 32,
        "text": {"width": 64, "depth": 2, "num_heads": 4, "max_length": 48},
    },
    "data": {
        "image_size": SIZE,
        "train": {**source, "path": "train.npz"},
        "fields": {"image": {"name": "image"}, "text": text},
        "transform": {"name": "supervised", "crop": "none"},
    },
    "optim": {
        "name": "adamw",
        "learning_rate": 3e-3,
        "b2": 0.98,
        "clip_norm": 1.0,
        "schedule": {"name": "cosine", "warmup_steps": max(STEPS // 10, 1)},
    },
    "evals": {
        "seen": {**zero_shot, "source": {**source, "path": "seen.npz"}},
        "new": {**zero_shot, "source": {**source, "path": "new.npz"}},
    },
    "eval_every": max(STEPS // 2, 1),
    "log_every": max(STEPS // 20, 1),
}
if not WEIGHTS:
    train(build_experiment(config), "runs/clip")
    rows = [row for row in read_metrics(Path("runs/clip")) if "new/accuracy" in row]
    for row in rows:
        shares = (
            f"seen {row['seen/accuracy']:.0%} of {len(seen)} names, new {row['new/accuracy']:.0%} of {len(held_out)}"
        )
        print(f"step {row['step']}: {shares}")

# %% [markdown]
# ## The picture and the words
#
# `zero_shot` makes a classifier of the model: the classes are the embeddings of the labels. What comes out has labels,
# logits and answers as every classifier here. On the command line it is
# `vit_jax predict --checkpoint runs/clip photo.png --labels "a cat, a dog"`.

# %%
model = vit_jax.load(WEIGHTS or "runs/clip")
if not PICTURE:
    PICTURE = "drawn.png"
    cv2.imwrite(PICTURE, draw("large", "yellow", "star", np.random.default_rng(7))[..., ::-1])
classifier = model.zero_shot(LABELS)
logits = np.asarray(classifier.logits(classifier.preprocess(PICTURE)[None]))
(answer,) = classifier.task.answers({"logits": logits}, classifier.fields)

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained", width_ratios=(1, 2))
left.imshow(model.preprocess.to_uint8(PICTURE), interpolation="nearest")
left.set_axis_off()
best = answer.best(10)[::-1]
right.barh([name for name, _ in best], [probability for _, probability in best])
right.set(xlim=(0, 1), xlabel="probability among these labels")
plt.show()

# %% [markdown]
# ## How it compares
#
# A row a picture, a column a text, in each cell the cosine of their embeddings; all of them combinations that training
# did not show. A classifier is nothing else than a row of this table. `vit_jax visualize` draws it for pictures and
# texts of yours, and `vit_jax retrieve` reads it by column: which picture fits a text best.

# %%
from vit_jax.inspection.pair_figures import similarity_matrix_figure

if WEIGHTS:
    pictures, texts = [model.preprocess.to_uint8(PICTURE)], [label.strip() for label in LABELS.split(",")]
else:
    chosen = held_out
    pictures = [draw(*kinds[i], np.random.default_rng(i)) for i in chosen]
    texts = [names[i] for i in chosen]
cosines = model.embed_images(pictures) @ model.embed_texts(texts).T
similarity_matrix_figure(pictures, texts, cosines)

# %% [markdown]
# ## One name, several names, templates
#
# A class is the mean of the embeddings of everything that it is called. That helps where a name alone is ambiguous (a
# crane is a bird and a machine) or unusual as a caption: published models are asked with templates such as
# "a photo of a {}.", for ImageNet with 80 of them (`templates="imagenet"`). The small model knows one way to say a
# thing, so that words around it can only confuse it.

# %%
examples = np.load("new.npz")
pictures = np.stack([model.preprocess(image) for image in examples["images"]])
bare = {str(name): str(name).removeprefix("a ") for name in examples["label_names"]}
for shown, labels, templates in (
    ("as in captions", list(bare), "{}"),
    ("without the article", bare, "{}"),
    ("'a photo of a {}.'", bare, "photo"),
    ("mean of the three", {name: [name, word, f"a photo of a {word}."] for name, word in bare.items()}, "{}"),
):
    logits = np.asarray(model.zero_shot(labels, templates).logits(pictures))
    print(f"{shown:>20}: {(logits.argmax(1) == examples['labels']).mean():.0%}")
