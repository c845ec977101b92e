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
# # Point at it: promptable segmentation, and a model that labels its own data
#
# *Segment anything* ([Kirillov et al., 2023](https://arxiv.org/abs/2304.02643)) trains a model that is asked, not told
# classes: a click, a box or a rough mask goes in, a mask comes out. One click can mean several things, the handle of a
# pair of scissors, both handles, the scissors, so there are **three answers to one click**, each with a guess of how
# good it is. The image is looked at once; every further prompt costs almost nothing. And masks that the model is sure
# of become labels for the next one: the paper's **data engine**.
#
# Here a small one is trained on drawn shapes, in about two minutes on a CPU and without network.

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
# ## Shapes, and what a click on them may mean
#
# Scenes are drawn, so that every pixel's label is known. A disc is a disc; but a pair of scissors has masks of the
# whole, of two blades, of both handles together, and of either handle: parts lie within parts.

# %%
import cv2
import matplotlib.pyplot as plt
import numpy as np

import vit_jax
from vit_jax.data import drawing
from vit_jax.data.sources import shapes

STEPS = 500  # @param {type:"integer"}
SCENES = {"objects": [1, 2], "scale": [0.5, 0.9], "image_size": 48}

held_out = shapes.build(length=30, seed=1, **SCENES)


def show(pictures, titles, columns=4):
    rows = max(1, -(-len(pictures) // columns))
    size = (2.2 * columns, 2.4 * rows)
    _, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, title in zip(grid.flat, pictures, titles, strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize=9)
    plt.show()


def scene_of(example):
    """An image, and the mask of each part in it."""
    return {"image": example["image"], "masks": np.stack([one["segmentation"] for one in example["masks"]])}


scenes = [scene_of(held_out[i]) for i in range(len(held_out))]
large = [drawing.enlarged(scene["image"]) for scene in scenes[:8]]
pictures = [drawing.masks(image, scene["masks"]) for (image, _), scene in zip(large, scenes, strict=False)]
show(pictures, [f"{len(scene['masks'])} masks" for scene in scenes[:8]])

# %% [markdown]
# ## Training: asked, answered, asked again
#
# The config is `configs/shapes_sam.py` with a smaller network. In every step some masks of each image are asked for, by
# a click or by a box. Of the three answers only the best one's loss counts, since each may be right. (SAM then goes on
# with clicks where the answer was wrong, which `clicks=5` would do here: more to learn than two minutes allow.)

# %%
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

changes = {
    "model.trunk.width": "64",
    "model.trunk.depth": "2",
    "model.trunk.num_heads": "2",
    "model.trunk.mlp_dim": "256",
    "model.width": "32",
    "model.decoder_mlp_dim": "64",
    "optim.learning_rate": "0.002",
    "checkpoint.every": "none",
    "log_every": "100",
}
config = override(load_config(f"shapes_sam:clicks=1,steps={STEPS}"), changes)
config["data"]["image_size"] = SCENES["image_size"]
config["data"]["train"] |= SCENES
config["data"]["fields"]["masks"] |= {"mask_size": 24}
config["evals"] = {}  # it is looked at below
train(build_experiment(config), "runs/shapes")

# %% [markdown]
# ## One click, three answers
#
# `prompted` embeds a picture once and then answers. A click on a part of scissors: what the model thinks best stands
# first.

# %%
model = vit_jax.load("runs/shapes")


def middle(mask):
    """The most interior pixel of a mask, (x, y)."""
    depth = cv2.distanceTransform(np.pad((mask != 0).astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x), float(y)


def iou(one, other):
    one, other = one != 0, other != 0
    return (one & other).sum() / max((one | other).sum(), 1)


def answered(scene, found, points, labels):
    """Each answer drawn on the scene with the clicks, and what it is thought to be worth."""
    image, times = drawing.enlarged(scene["image"])
    xy, kinds = np.array(points) + 0.5, np.array(labels)
    pictures = [drawing.points(drawing.masks(image, mask[None]), xy, times, kinds) for mask in found.masks]
    return pictures, [f"predicted IoU {value:.2f}" for value in found.iou]


pictures, titles = [], []
for scene in [scene for scene in scenes if len(scene["masks"]) >= 6][:3]:
    handle = min(scene["masks"], key=lambda mask: (mask != 0).sum())
    point = middle(handle)
    prompted = model.prompted(scene["image"])
    drawn, worth = answered(scene, prompted(points=[point]), [point], [1])
    pictures += [drawing.masks(drawing.enlarged(scene["image"])[0], handle[None]), *drawn]
    titles += ["a part, clicked in its middle", *worth]
show(pictures, titles)

# %% [markdown]
# Does one of the three answers fit what was meant, and does the model know which? Over all masks of held-out scenes,
# one click each, as mean intersection over union. The best of three is what a person gets who may choose; the pick is
# what the model thinks best. Beside them a box, which leaves less open.
#
# 500 steps make a beginner, which finds large shapes roughly and parts of scissors hardly. More is a matter of minutes:
# raise `STEPS`, or train `configs/shapes_sam.py`, which `benchmarks/promptable.py` measures.

# %%
best, picked, boxed = [], [], []
for scene in scenes:
    prompted = model.prompted(scene["image"])
    for mask in scene["masks"]:
        of_click = [iou(found, mask) for found in prompted(points=[middle(mask)]).masks]
        best.append(max(of_click))
        picked.append(of_click[0])
        y, x = np.nonzero(mask)
        box = (x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5)
        boxed.append(iou(prompted(box=np.clip(box, 0, 47)).masks[0], mask))
for name, values in {"one click, best of three": best, "one click, the model's pick": picked, "box": boxed}.items():
    print(f"{name:28} mIoU {100 * np.mean(values):4.1f}")

# %% [markdown]
# ## The data engine
#
# Nobody points now: a grid of clicks asks for everything, and what the model thinks good and stable is kept, without
# duplicates. How right is it where it is sure? With a higher threshold fewer masks are kept, and more of them should be
# right (an intersection over union of at least 0.7 with a true mask).

# %%
from vit_jax.data import rle
from vit_jax.evaluators.mask_generator import MaskGenerator

engine = MaskGenerator(points_per_side=12, points_per_batch=144, least_iou=0.3, least_stability=0.5)
everything = [engine(model.prompted, scene["image"]) for scene in scenes[:20]]
print("least predicted IoU   kept   right")
for threshold in (0.4, 0.6, 0.8):
    kept = [
        max(iou(rle.decode(found.rle), mask) for mask in scene["masks"])
        for scene, all_found in zip(scenes, everything, strict=False)
        for found in all_found
        if found.predicted_iou >= threshold
    ]
    right = f"{np.mean(np.array(kept) >= 0.7):.0%}" if kept else ""
    print(f"{threshold:19}   {len(kept):4}   {right}")

pictures = [
    drawing.masks(drawing.enlarged(scene["image"])[0], np.stack([rle.decode(found.rle) for found in all_found[:6]]))
    for scene, all_found in zip(scenes, everything, strict=False)
    if all_found
][:8]
show(pictures, [""] * 8)

# %% [markdown]
# `vit_jax annotate photos/ --checkpoint runs/shapes --output found.json` does that for a folder, and writes a file in
# COCO's format, which the source `coco` reads: so the next model is trained on what this one found. With photos and
# objects of many kinds, and ten minutes, `configs/composites_sam.py` is the next step; published weights of SAM work
# alike: `vit_jax.load("hf://facebook/sam-vit-base").prompted("photo.jpg")`.
