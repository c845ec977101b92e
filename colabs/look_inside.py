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
# # Look inside a Vision Transformer
#
# What do its first weights look like, what has it learned about the places of patches, how far do its heads look, and
# what does it attend to in an image? These are the pictures of figure 7 of
# [the ViT paper](https://arxiv.org/abs/2010.11929), for any checkpoint that `vit_jax.load` reads.
#
# As it stands it trains a tiny model on synthetic scenes, which takes less than a minute on a CPU, and needs no
# network. With `USE_REAL` it looks inside a published ViT-B/16, at two photographs.

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

# %% [markdown]
# ## Scenes
#
# To see whether attention goes where it should, we need to know where that is. So each scene is a piece of one of two
# photographs, darkened, with a handwritten digit somewhere in it; the model is to say which digit. Nobody tells it
# *where* the digit is.

# %%
import cv2
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_sample_image

photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
written = load_digits()
CLASSES = (0, 1, 4)


def scene(digit, rng, side=32, size=16):
    """A uint8 image [side, side, 3]: a digit [8, 8], whose ink is in 0..16, on a piece of a photograph."""
    photo, crop = photos[rng.integers(2)], rng.integers(60, 200)
    y, x = rng.integers(photo.shape[0] - crop), rng.integers(photo.shape[1] - crop)
    image = 0.5 * cv2.resize(photo[y : y + crop, x : x + crop], (side, side), interpolation=cv2.INTER_AREA)
    ink = cv2.resize(digit / 16, (size, size))[..., None]
    y, x = rng.integers(side - size + 1, size=2)
    image[y : y + size, x : x + size] += ink * (255 - image[y : y + size, x : x + size])
    return np.rint(image).astype(np.uint8)


def write_scenes(path, which, count, seed):
    """An .npz file as the source `arrays` reads it, with so many scenes of the digits numbered `which`."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(which, count)
    images = np.stack([scene(written.images[i], rng) for i in chosen])
    labels = np.array([CLASSES.index(written.target[i]) for i in chosen])
    np.savez(path, images=images, labels=labels, label_names=[str(digit) for digit in CLASSES])


of_classes = np.flatnonzero(np.isin(written.target, CLASSES))
write_scenes("train.npz", of_classes[of_classes % 5 > 0], 5000, seed=0)
write_scenes("test.npz", of_classes[of_classes % 5 == 0], 300, seed=1)  # other handwriting, other places

scenes = np.load("test.npz")["images"]
figure, grid = plt.subplots(1, 8, figsize=(10, 1.4), layout="constrained")
for axes, image in zip(grid, scenes, strict=False):
    axes.imshow(image)
    axes.axis("off")
plt.show()

# %% [markdown]
# ## A model
#
# A ViT with a class token, 3 blocks and 4 heads, on patches of 4x4 pixels, so that an image is a grid of 8x8 patches.
# Or, with `USE_REAL`, a ViT-B/16 of 12 blocks and 12 heads, whose 224x224 pixels make a grid of 14x14.

# %%
import vit_jax
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

STEPS = 240  # @param {type:"integer"}

if USE_REAL:
    model = vit_jax.load("hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k")
    pictures = photos
else:
    config = load_config("digits")
    config["data"] = {
        "image_size": [32, 32],
        "train": {"name": "arrays", "path": "train.npz"},
        "eval": {"name": "arrays", "path": "test.npz"},
        "transform": {"name": "supervised", "crop": "none", "flip": False},
    }
    config["evals"] = {"val": {"name": "classification"}}
    changes = {"steps": str(STEPS), "batch_size": "32", "model.pooling": "token", "log_every": "40"}
    changes["optim.schedule.warmup_steps"] = str(min(40, STEPS // 5))
    summary = train(build_experiment(override(config, changes)), "runs/scenes")
    print(f"accuracy on held-out scenes: {summary['val/accuracy']:.1%} (chance: 33.3%)")
    model = vit_jax.load("runs/scenes")
    pictures = list(scenes[:4])

images = np.stack([model.preprocess(picture) for picture in pictures])  # as the model needs them
shown = [model.preprocess.to_uint8(picture) for picture in pictures]  # the same for the eye
logits = np.asarray(model.logits(images))
print("the model says:", ", ".join(model.labels[i] for i in logits.argmax(axis=1)))

# %% [markdown]
# ## The patch embedding
#
# The first thing that a ViT does is to cut the image into patches and to multiply the pixels of each by one and the
# same matrix: a patch becomes a vector, a *token*. Each column of the matrix is a filter that says how strongly a
# pattern is present in the patch. Here are the principal components of all filters, the strongest first. A network that
# was trained on many photographs shows smooth colours and stripes of growing frequency, like a basis for patches; a
# tiny one that was trained for a minute keeps much of its random beginning.

# %%
from vit_jax.inspection import arrays, extract, figures

figures.filters_figure(arrays.filter_components(extract.patch_kernel(model)))

# %% [markdown]
# ## Position embeddings
#
# Attention does not know which patch is where: if you shuffled the tokens, it would do the same with them. So a learned
# vector is added to each token, one for each place of the grid. A tile shows how similar the vector of one place is to
# those of all places, and the tiles are arranged as the patches are. In a well-trained model each place resembles its
# neighbours, its row and its column: it has found out that the tokens form a picture. The tiny model shows traces of
# that at most. On the right, for comparison, the fixed sine-cosine embeddings that MAE uses, which have it by design.

# %%
from vit_jax.nn.posemb import sincos2d

table = extract.position_table(model)
tables = {"learned": table, "sine-cosine": sincos2d(table.shape[:2], table.shape[2])}
figures.similarity_figure({title: arrays.position_similarity(t) for title, t in tables.items()})

# %% [markdown]
# ## How far heads look
#
# Every head of every layer gives each patch a set of weights over all tokens, which sum to one. The *mean attention
# distance* is the distance in pixels from a patch to what it attends to, weighted by attention and averaged over
# patches and images: what the size of the receptive field is to a convolution. A head with a small distance looks at
# the neighbourhood, one with a large distance gathers from the whole image. In large trained models both kinds stand
# side by side in the first layers, and the last layers look far. A head that looks everywhere alike is not at the
# largest possible distance, but at the mean distance of all pairs: the dashed line. That is where the tiny model stays:
# its *patches* have not learned to look anywhere in particular. Its class token has, as the next pictures show.

# %%
weights = extract.attention_weights(model, images)  # [layers, images, heads, tokens, tokens]
grid, patch = extract.patch_grid(model), extract.patch_pixels(model)
distances = arrays.mean_attention_distance(weights, grid, patch)
uniform = arrays.mean_attention_distance(np.ones((1, 1, 1, weights.shape[-1], weights.shape[-1])), grid, patch)

figure = figures.distance_figure({"mean attention distance": distances}, model.preprocess.image_size)
figure.axes[0].axhline(uniform.item(), color="0.6", linestyle="--", linewidth=1, zorder=0)
figure

# %% [markdown]
# ## What the class token attends to
#
# The answer is read from the class token after the last layer, so its attention says where the answer comes from, or at
# least where it was gathered last. For the first image, layer by layer (rows) and head by head (columns):

# %%
maps = arrays.query_maps(weights, grid)  # [layers, images, heads, rows, columns]
figures.layers_figure(maps[:, 0])

# %% [markdown]
# Laid over the image, for the heads of the last layer:

# %%
figures.heads_figure(shown[0], maps[-1, 0])

# %% [markdown]
# ## Rollout
#
# A token of the last layer is no longer one patch: each layer has mixed them. *Attention rollout* follows the mixing
# back to the input, by multiplying the layers' attention (mean over heads, and the residual connection as an identity).
# It is a summary, not a proof: it ignores the MLPs, and what the heads do with what they fetch.

# %%
rollout = arrays.query_maps(arrays.attention_rollout(weights), grid)  # [images, rows, columns]
figure, panels = plt.subplots(2, len(shown), figsize=(2.2 * len(shown), 4.4), layout="constrained", squeeze=False)
for i, (image, row) in enumerate(zip(shown, rollout, strict=True)):
    panels[0, i].imshow(image)
    panels[0, i].set_title(model.labels[logits[i].argmax()][:24], fontsize=9)
    panels[1, i].imshow(figures.overlay(image, row))
for axes in panels.flat:
    axes.axis("off")
plt.show()

# %% [markdown]
# Does the model use what it attends to? A check without looking: paint the patches that rollout puts first in the mean
# colour of the image, or as many patches at random, and count how many answers change.

# %%
if not USE_REAL:
    held_out = np.stack([model.preprocess(image) for image in scenes[:128]])
    of_scenes = arrays.attention_rollout(extract.attention_weights(model, held_out))
    scores = arrays.query_maps(of_scenes, grid).reshape(len(held_out), -1)
    before = np.asarray(model.logits(held_out)).argmax(axis=1)
    rng = np.random.default_rng(0)
    for label, order in (("first by rollout", -scores), ("at random", rng.random(scores.shape))):
        blank = np.argsort(order, axis=1)[:, :12]  # 12 of 64 patches
        keep = np.ones_like(scores)
        np.put_along_axis(keep, blank, 0.0, axis=1)
        mask = keep.reshape(-1, *grid).repeat(int(patch[0]), axis=1).repeat(int(patch[1]), axis=2)[..., None]
        grey = held_out.mean(axis=(1, 2), keepdims=True)
        after = np.asarray(model.logits(held_out * mask + grey * (1 - mask))).argmax(axis=1)
        print(f"12 of 64 patches painted over, {label}: {(after != before).mean():.0%} of the answers change")

# %% [markdown]
# From the command line the same pictures come as a report: `vit_jax visualize --checkpoint X photo.jpg`.
