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
# # Learn the prompt instead of writing it
#
# A model of images and texts classifies by prompts: "a photo of a cat." The wording decides more than one would like.
# [CoOp](https://arxiv.org/abs/2109.01134) learns it: the words around a class's name become vectors, fitted to a few
# labelled images, while the model stays as it is.
#
# Here a tiny CLIP is trained on filled shapes in four colours, with captions. Then it is asked about grey outlines, of
# which no caption ever spoke: with prompts written by hand, and with one learned from 1, 4 and 16 examples of each
# class. Two minutes on a CPU, without network.

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
# ## Filled shapes, and outlines

# %%
import cv2
import matplotlib.pyplot as plt
import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (210, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 210), "black": (30, 30, 30)}
CORNERS = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0, -1), (0.95, 0.8), (-0.95, 0.8)],
}
SIZE, SCALE = 16, 8  # pixels of an image, and how many times larger it is drawn


def draw(shape, colour, ground, thickness, rng):
    """A uint8 image [SIZE, SIZE, 3]; a thickness of -1 fills the shape."""
    image = np.full((SIZE * SCALE, SIZE * SCALE, 3), ground, np.uint8)
    r = rng.uniform(3.5, 5.5) * SCALE
    x, y = rng.uniform(r + SCALE, SIZE * SCALE - r - SCALE, 2)
    if shape == "circle":
        cv2.circle(image, (int(x), int(y)), int(r), colour, thickness)
    elif shape == "cross":
        for dx, dy in ((1, 1), (1, -1)):
            ends = [(int(x + s * dx * 0.8 * r), int(y + s * dy * 0.8 * r)) for s in (-1, 1)]
            cv2.line(image, *ends, colour, int(0.5 * r) if thickness < 0 else thickness)
    else:
        corners = np.array([(x + u * r, y + v * r) for u, v in CORNERS[shape]], np.int32)
        if thickness < 0:
            cv2.fillPoly(image, [corners], colour)
        else:
            cv2.polylines(image, [corners], True, colour, thickness)
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def captioned(count, rng):
    """Images of filled shapes, and their captions."""
    chosen = [(SHAPES[rng.integers(4)], list(COLOURS)[rng.integers(4)]) for _ in range(count)]
    images = [draw(shape, COLOURS[colour], rng.integers(225, 256), -1, rng) for shape, colour in chosen]
    return np.stack(images), np.array([f"a {colour} {shape}" for shape, colour in chosen])


def labelled(each, rng):
    """Images of grey outlines, and which shape each is."""
    labels = np.repeat(np.arange(4), each)
    return np.stack([draw(SHAPES[k], (60, 60, 60), 240, 2 * SCALE, rng) for k in labels]), labels


rng = np.random.default_rng(0)
images, texts = captioned(2000, rng)
np.savez("captioned.npz", images=images, text=texts)
few, few_labels = labelled(40, rng)
test, test_labels = labelled(60, rng)
np.savez("few.npz", images=few, labels=few_labels, label_names=np.array(SHAPES))
np.savez("test.npz", images=test, labels=test_labels, label_names=np.array(SHAPES))

figure, axes = plt.subplots(2, 6, figsize=(9, 3.4), layout="constrained")
shown, titles = [*images[:6], *few[::27]], [*texts[:6], *(SHAPES[k] for k in few_labels[::27])]
for ax, image, title in zip(axes.ravel(), shown, titles, strict=True):
    ax.imshow(image)
    ax.set_title(title, fontsize=9)
    ax.axis("off")
plt.show()

# %% [markdown]
# ## A tiny CLIP
#
# The task `clip` on pairs of an image and a caption; the tokenizer's tokens are the bytes of the text.

# %%
import vit_jax
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

STEPS = 300  # @param {type:"integer"}
PROMPT_STEPS = 200  # @param {type:"integer"}

whole_images = {"name": "supervised", "crop": "none", "flip": False}
model = {
    "name": "clip",
    "variant": "mu/4",
    "embed_dim": 32,
    "text": {"width": 32, "depth": 2, "num_heads": 4, "max_length": 32},
}
config = {
    "seed": 0,
    "steps": STEPS,
    "batch_size": 64,
    "task": {"name": "clip"},
    "model": model,
    "data": {
        "image_size": SIZE,
        "train": {"name": "arrays", "path": "captioned.npz", "fields": ["text"]},
        "fields": {"image": {"name": "image"}, "text": {"name": "tokens", "tokenizer": "bytes", "length": 20}},
        "transform": whole_images,
    },
    "optim": {
        "name": "adamw",
        "learning_rate": 3e-3,
        "weight_decay": 0.05,
        "schedule": {"name": "cosine", "warmup_steps": STEPS // 10},
    },
    "log_every": STEPS // 4,
}
train(build_experiment(config), "runs/clip")

# %% [markdown]
# ## A prompt written by hand
#
# The class of a picture is the prompt whose embedding is nearest to its own.

# %%
clip = vit_jax.load("runs/clip")
pixels = np.stack([clip.preprocess(image) for image in test])
seen = clip.embed_images(pixels)


def accuracy(prompt):
    """How many pictures are nearest to the right one of four texts."""
    written = clip.embed_texts([prompt.format(shape) for shape in SHAPES])
    return float(((seen @ written.T).argmax(1) == test_labels).mean())


PROMPTS = ("a {}", "a black {}", "a black {}.", "a red {}", "a blue {}", "{}")
by_hand = {prompt: accuracy(prompt) for prompt in PROMPTS}
for prompt, found in by_hand.items():
    print(f"{prompt:14} {found:.0%}")

# %% [markdown]
# ## A prompt that is learned
#
# The task `coop` keeps both towers (`frozen` names all parameters but the prompt) and learns four vectors in front of
# the class's name. As the towers do not change and the images are not augmented, `precompute` embeds the images once.


# %%
def learn(shots):
    """The accuracy of a prompt learned from so many pictures of each shape."""
    source = {"name": "arrays", "path": "few.npz"}
    config = {
        "seed": 0,
        "steps": PROMPT_STEPS,
        "batch_size": 16,
        "init_from": "runs/clip",
        "task": {"name": "coop", "tokenizer": "bytes", "context_length": 4},
        "model": model,
        "data": {
            "image_size": SIZE,
            "train": {"name": "few_shot", "source": source, "shots": shots},
            "eval": {"name": "arrays", "path": "test.npz"},
            "transform": whole_images,
        },
        "precompute": {"output": "image_embedding"},
        "optim": {
            "name": "sgd",
            "learning_rate": 0.002,
            "frozen": ["(?!prompt/).*"],
            "schedule": {"name": "cosine"},
        },
        "evals": {"test": {"name": "classification"}},
        "log_every": PROMPT_STEPS // 2,
    }
    return train(build_experiment(config), f"runs/coop-{shots}")["test/accuracy"]


learned = {shots: learn(shots) for shots in (1, 4, 16)}

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(list(learned), list(learned.values()), marker="o", label="learned prompt (CoOp)")
for i, (prompt, found) in enumerate(by_hand.items()):
    ax.axhline(found, color="grey", linewidth=0.8)
    ax.text(0.02 + 0.16 * i, found, f"'{prompt}'", fontsize=8, va="bottom", transform=ax.get_yaxis_transform())
ax.set_xscale("log", base=2)
ax.set_xticks(list(learned), list(learned))
ax.set_xlabel("labelled pictures of each shape")
ax.set_ylabel("accuracy")
ax.set_ylim(bottom=0)
ax.legend(fontsize=8, loc="lower left")
plt.show()

# %% [markdown]
# ## What it has learned
#
# The tokens whose vectors are nearest to those of the context, with their distances: seldom anything that a person
# would write. `vit_jax visualize --checkpoint runs/coop-16` prints the same and writes the vectors to a file.

# %%
from vit_jax.inspection.prompts import learned_prompt

for number, row in enumerate(learned_prompt(vit_jax.load("runs/coop-16"), 3).nearest, 1):
    print(f"vector {number}: " + ", ".join(f"{token!r} at {distance:.2f}" for token, distance in row))
