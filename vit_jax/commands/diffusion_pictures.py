"""The part of `vit_jax visualize` that is about a diffusion's steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.commands.picture import Picture
from vit_jax.inspection import diffusion, diffusion_figures, prompt_maps
from vit_jax.inspection.interpolation import spaces_of

if TYPE_CHECKING:
    from pathlib import Path

    from vit_jax.checkpoints.load import Loaded

_STRIPS, _FRAMES = 3, 9
_COUNTS = (1, 2, 5, 10, 25, 50)  # of steps
_SHOWN = 8
_WORDS = 10  # side by side


def diffusion_sections(
    loaded: Loaded, images: Mapping[Path, np.ndarray], prompts: Sequence[str] = ()
) -> Iterator[tuple[str, str, list[Picture]]]:
    """Title, note and pictures: the way from noise to images, the noise itself, and where there are images of somebody
    what each step is worth for them.

    Args:
        images: as the model sees them, uint8.
        prompts: what samples are asked to be.
    """
    yield "From noise to images", "", [_strip(loaded, prompts), _against_one(loaded, prompts)]
    if prompts and prompt_maps.reads_words(loaded):
        note = (
            "Cross-attention of each place of the image to the words of the prompt: a mean over heads, layers and "
            "steps (DAAM)."
        )
        yield "Where each word is looked for", note, [
            picture for number, prompt in enumerate(prompts, 1) for picture in _words(loaded, prompt, number)
        ]  # fmt: skip
    own = diffusion.own_noising(loaded).alphas_cumprod
    yield "The noise", "", [
        Picture(
            "schedule",
            diffusion_figures.schedules_figure(diffusion.schedules(len(own)), own),
            "What is left of an image after each step. The linear schedule (DDPM) drowns it early, the cosine (iDDPM) "
            "slowly, so that more of the steps have something to learn. In print the cosine often lacks its square: "
            "the dotted line, which nothing here uses. Where signal to noise is 0 dB there is as much image as noise.",
        )
    ]  # fmt: skip
    if images:
        yield "What a step is worth", "", [_worth(loaded, np.stack(list(images.values())), prompts)]


def _strip(loaded: Loaded, prompts: Sequence[str]) -> Picture:
    strip = diffusion.film_strip(loaded, _STRIPS, _FRAMES, prompts=prompts)
    rows = {}
    for i in range(len(strip.samples)):
        rows[f"x_t, {i + 1}"] = np.concatenate([strip.noisy[:, i], strip.samples[i : i + 1]])
        rows[f"expected, {i + 1}"] = np.concatenate([strip.expected[:, i], strip.samples[i : i + 1]])
    titles = [*(f"t = {t + 1}" for t in strip.timesteps), "sample"]
    return Picture(
        "film_strip",
        diffusion_figures.rows_figure(rows, titles),
        "Samples as they come about, from left to right. Above what there is at step t; below the image that the "
        "network expects in the end, seeing it. Where there is noise alone it can only expect a mean of all images, or "
        "where it predicts the noise its own error, magnified; large forms are decided early, and detail last.",
    )


def _against_one(loaded: Loaded, prompts: Sequence[str]) -> Picture:
    # As many as its samples take; with an offset a sampler cannot take all of them.
    count = loaded.task.sampling().steps or len(diffusion.own_noising(loaded).timesteps)
    steps = [n for n in _COUNTS if n < count] + [count]
    found = diffusion.by_steps(loaded, steps, _SHOWN, prompts=prompts)
    rows = {f"{n} step{'s' * (n > 1)}": images for n, images in found.items()}
    return Picture(
        "one_against_many",
        diffusion_figures.rows_figure(rows),
        "A column has the same noise, from which DDIM goes to an image by so many steps. One step is the image that "
        "the network expects of noise alone: at best a mean of what it has seen, since noise says next to nothing of "
        "the image; of a network that predicts the noise it is its error, magnified. It cannot be done at once; a few "
        "steps do most of it.",
    )


def _words(loaded: Loaded, prompt: str, number: int) -> Iterator[Picture]:
    """As many words as can be read side by side in each picture; none of a prompt without words."""
    found = prompt_maps.prompt_maps(loaded, prompt)
    rows = {"together": found.together, **{f"{w}x{h}": maps for (h, w), maps in found.maps.items()}}
    places = np.flatnonzero(~found.special)
    for part in range(0, len(places), _WORDS):
        some = places[part : part + _WORDS]
        words = [found.words[i] for i in some]
        shares = ", ".join(f"{found.words[i]} {found.together[i].mean():.1%}" for i in some)
        rest = 1 - found.together[places].mean((1, 2)).sum()
        yield Picture(
            f"words_{number:02d}" + (f"_{1 + part // _WORDS}" if part else ""),
            diffusion_figures.words_figure(found.image, words, {name: x[some] for name, x in rows.items()}),
            f"{prompt!r}. A column for each word, over the image that came of it; above all resolutions together, "
            "below the layers of each. A tile goes from its least to its most: compare places, not brightness, between "
            f"tiles. Mean shares of the attention: {shares}; start, end and padding have {rest:.1%}. Coarse layers "
            "tell what is where, fine ones edges and texture; a word that lies on the wrong thing is how prompts get "
            "confused.",
        )


def _worth(loaded: Loaded, images: np.ndarray, prompts: Sequence[str]) -> Picture:
    found = diffusion.worth(loaded, images, prompts=prompts)
    figure = diffusion_figures.worth_figure(found.error, found.bits, found.rate, found.distortion)
    of = "this image" if len(images) == 1 else f"these {len(images)} images"
    latent = "latents" in spaces_of(loaded)
    where = " in the autoencoder's latents, of which the distortion is 127.5 times a deviation" if latent else ""
    return Picture(
        "worth",
        figure,
        f"Of {of}{where}, one draw of noise a step. Left: the squared error of the prediction, and what a step costs "
        "in bits, of which the sum bounds the likelihood. Right: with the bits of all steps but the last ones the "
        "expected image is already near (DDPM, figure 5): the steep part is what the image is of, which latent "
        "diffusion leaves to the diffusion; the long flat part is detail that hardly shows, which it leaves to the "
        "autoencoder.",
    )
