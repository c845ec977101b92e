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
# # What attention costs, and three ways to pay less
#
# An image twice as high and twice as wide has four times as many tokens. In softmax attention each of them looks at
# each, so that the scores alone cost sixteen times as much: tokens squared, resolution to the fourth power.
#
# Three answers, each a few lines of this library:
#
# - **windows** ([Swin](https://arxiv.org/abs/2103.14030)): look at neighbours only, and shift the windows in every
#   second layer, so that neighbours' neighbours meet;
# - **sparse windows** ([SparseViT](https://arxiv.org/abs/2303.17605)): compute only those windows in which something
#   is;
# - **linear attention** ([EfficientViT](https://arxiv.org/abs/2205.14756)): drop the exponential, and move two
#   brackets.
#
# Nothing is trained here, and nothing is downloaded; it runs in about a minute on a CPU.

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
# ## The bill
#
# One layer of each kind, 96 channels in 3 heads, on square grids of tokens. First on paper: multiplications and
# additions between the projections, which all kinds have alike.

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from vit_jax.planning.mixers import KINDS, LayerSize

size = LayerSize(width=96, heads=3)  # windows of 8x8, of which sparse attention leaves out 60%
layers = {name: kind(size) for name, kind in KINDS.items()}
on_paper = [32, 64, 128, 256]
gflops = {name: [layer.flops((grid, grid)).mixing / 1e9 for grid in on_paper] for name, layer in layers.items()}
for name, found in gflops.items():
    slope = np.polyfit(np.log([grid**2 for grid in on_paper]), np.log(found), 1)[0]
    print(f"{name:10} {found[0]:7.3f} to {found[-1]:9.3f} GFLOP: tokens to the power of {slope:.2f}")

# %% [markdown]
# Then with a watch; on a CPU one that counts the work of all its cores, whatever else they do meanwhile. Random
# parameters cost as much as good ones.


# %%
on_cpu = jax.default_backend() == "cpu"
watch = time.process_time if on_cpu else time.perf_counter


def milliseconds(layer, grid, rounds=3):
    """The best of so many runs forward."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, grid, grid, 96)), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes)
    run = jax.jit(layer.apply)
    run(variables, x).block_until_ready()  # compiles
    taken = []
    for _ in range(rounds):
        began = watch()
        run(variables, x).block_until_ready()
        taken.append(watch() - began)
    return 1e3 * min(taken)


measured = [16, 32, 64]
times = {name: [milliseconds(layer, grid) for grid in measured] for name, layer in layers.items()}

figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for axes, grids, found, label in (
    (panels[0], on_paper, gflops, "GFLOP of mixing"),
    (panels[1], measured, times, "milliseconds of CPU, forward" if on_cpu else "milliseconds, forward"),
):
    for name, values in found.items():
        axes.plot([grid**2 for grid in grids], values, marker="o", label=name)
    ticks = [grid**2 for grid in grids]
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label, xticks=ticks, xticklabels=ticks)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
panels[0].legend()
plt.show()

# %% [markdown]
# On logarithmic axes a power is a straight line. Softmax climbs twice as steeply as all the others: whatever the
# constant, at some resolution it loses. (`vit_jax bench attention --output board.html` measures the same on your
# machine, with training and memory.)
#
# ## How far can a place see?
#
# A window costs little because it sees little. Which places of the input can change one place of the output? Where
# the gradient is not zero. Above, layers with plain windows alone; below, every second layer is shifted by half a
# window.

# %%
GRID, PLACE = 32, (13, 13)
plain, shifted = KINDS["window"](size), KINDS["shifted"](size)


def reached(depth, shifts):
    """Where the gradient of one place is not zero, after so many layers with shortcuts."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, GRID, GRID, 96)), jnp.float32)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), x)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32), shapes)

    def place(x):
        for i in range(depth):
            x = x + (shifted if shifts and i % 2 else plain).apply(variables, x)
        return x[0, *PLACE].sum()

    return np.abs(jax.jit(jax.grad(place))(x)[0]).sum(-1) > 0


depths = (1, 2, 3, 4)
figure, rows = plt.subplots(2, len(depths), figsize=(10, 5.2), layout="constrained")
for shifts, row in zip((False, True), rows, strict=True):
    for depth, axes in zip(depths, row, strict=True):
        seen = reached(depth, shifts)
        axes.imshow(seen, cmap="Blues", vmin=0, vmax=1.4)
        axes.plot(*PLACE[::-1], "o", color="tab:orange", markersize=4)
        axes.set_title(f"{depth} layers, {seen.sum()} places", fontsize=9)
        axes.set(xticks=np.arange(-0.5, GRID, 8), yticks=np.arange(-0.5, GRID, 8), xticklabels=[], yticklabels=[])
        axes.grid(alpha=0.6)
    row[0].set_ylabel("shifted in turn" if shifts else "plain windows")
plt.show()

# %% [markdown]
# Plain windows never learn of each other, however many layers there are. With shifts the field grows with every
# layer, as in a convolutional network.
#
# ## Two brackets
#
# Softmax attention needs its table of scores: $\mathrm{softmax}(Q K^T) V$, $n \times n$ numbers. Where the similarity
# of a query and a key is a plain product, the table need not exist, since multiplication is associative:
#
# $$(Q K^T) V = Q (K^T V)$$
#
# On the left $n \times n$, on the right $d \times d$. EfficientViT takes the ReLU of queries and keys, so that no
# weight is negative, and counts the weights of a row with a column of ones.

# %%
from vit_jax.nn.linear_attention import linear_attention, linear_weights

rng = np.random.default_rng(0)
n, d = 1024, 32
q, k, v = (jnp.asarray(rng.normal(size=(1, n, 1, d)), jnp.float32) for _ in range(3))

table = linear_weights(q, k)[0, 0]  # (Q K^T), each row divided by its sum: what is never computed
left = table @ v[0, :, 0]
right = linear_attention(q, k, v)[0, :, 0]  # Q (K^T V)
print(f"(Q K^T) V holds {n} x {n} numbers, Q (K^T V) only {d} x {d + 1}")
print(f"and the results differ by {np.abs(left - right).max():.1e} at most")

# %% [markdown]
# What is lost? A softmax can look at one thing; a plain product cannot. Here are the weights of one query whose own
# key is among the keys, the largest first.

# %%
keys = q.at[:, 1:].set(k[:, 1:])  # the first key is the first query
logits = (q[0, 0, 0] @ keys[0, :, 0].T) / np.sqrt(d)
rows = {"softmax": jax.nn.softmax(logits), "linear": linear_weights(q[:, :1], keys)[0, 0, 0]}
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, row in rows.items():
    axes.plot(np.sort(row)[::-1] * n, label=f"{name}: the largest weight is {float(row.max()) * n:.0f} times the mean")
axes.set(xscale="symlog", xlabel="keys, the largest weight first", ylabel="weight, in means")
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# The row of linear attention is flatter: it sees everything, and nothing sharply. This is why EfficientViT puts
# convolutions around it, which are sharp and see little, and lets heads attend to what 5x5 convolutions gather as
# well.
#
# ## Windows in which nothing is
#
# Most of a picture may be background. SparseViT ranks the windows of a stage by the length of the vector of their
# tokens' mean activations, and computes the best ones only. Here the "activations" are just the brightness of digits
# on a canvas.

# %%
from sklearn.datasets import load_digits

from vit_jax.inspection.window_figures import kept_figure
from vit_jax.nn.pruning import best_first, is_kept, kept_count, magnitudes
from vit_jax.nn.window import windows_on

canvas = np.zeros((96, 128), np.float32)
for image, (y, x) in zip(load_digits().images, ((8, 12), (44, 70), (60, 20)), strict=False):
    canvas[y : y + 24, x : x + 24] = np.kron(image / 16, np.ones((3, 3)))
tokens = canvas.reshape(24, 4, 32, 4).swapaxes(1, 2).reshape(1, 24, 32, 16)  # patches of 4x4 pixels
windows = windows_on((24, 32), 4)
worth = magnitudes(jnp.asarray(tokens))
order = best_first(windows.split(worth.reshape(1, -1, 1)).reshape(1, windows.count, -1))

kept = {}
for ratio in (0.5, 0.7, 0.8):
    count = kept_count(windows.count, ratio)
    some = np.repeat(np.asarray(is_kept(order, count))[0][:, None], windows.tokens, axis=1)
    places = windows.join(jnp.asarray(some.reshape(-1, windows.tokens, 1))).reshape(24, 32)
    kept[f"{ratio:.0%} left out: {count} of {windows.count}"] = np.asarray(places)
kept_figure(np.repeat((40 + 215 * canvas[..., None]).astype(np.uint8), 3, axis=2), kept)

# %% [markdown]
# What is dark is passed on as it is, and costs nothing. Up to the point where windows with digits are left out,
# nothing is lost. `vit_jax visualize` draws the same for a trained SparseViT, and `vit_jax search-sparsity` looks for
# the ratio of each stage within a budget of time.
