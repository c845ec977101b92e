"""The part of `vit_jax visualize` that is about texts."""

from collections.abc import Iterator, Sequence

from vit_jax.checkpoints.load import Loaded
from vit_jax.commands.picture import Picture
from vit_jax.inspection import text_figures
from vit_jax.inspection.texts import text_attention


def text_sections(loaded: Loaded, texts: Sequence[str], word: str | None) -> Iterator[tuple[str, str, list[Picture]]]:
    """Title, note and pictures of each text.

    Args:
        word: the one whose attention is drawn; None for the last of each text.

    Raises:
        UserError: for a checkpoint without a model of texts, a text that it cannot take, or a word that is not there.
    """
    for number, text in enumerate(texts, 1):
        found = text_attention(loaded, text)
        place = found.last if word is None else found.find(word)
        chosen = repr(found.words[place])
        name = f"text_{number:02d}"
        yield (
            text,
            "",
            [
                Picture(
                    f"{name}_word",
                    text_figures.word_lines_figure(found.words, found.weights, place),
                    f"What {chosen} attends to: a panel a layer, a line to each word in the colour of a head, the "
                    "stronger the more of its attention goes there. A word of several tokens gets what all of them "
                    "get. Many heads rest on the first token where they have nothing to say: look for those that do "
                    "not.",
                ),
                Picture(
                    f"{name}_heads",
                    text_figures.word_heads_figure(found.words, found.weights, place),
                    f"The same as a table: a row for each layer and head, in it the shares of {chosen}'s attention, "
                    "which add up to 1.",
                ),
                Picture(
                    f"{name}_layers",
                    text_figures.text_layers_figure(found.words, found.weights),
                    "What every word attends to, a mean over the heads of a layer: a row for each word. A model that "
                    "reads from left to right has nothing above the diagonal.",
                ),
            ],
        )
