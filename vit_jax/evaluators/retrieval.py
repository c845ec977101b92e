"""Which image belongs to a text, and which text to an image: recall among all of a set.

The protocol of image and text retrieval on Flickr30k and COCO, as CLIP reports it (arXiv:2103.00020, table 13): an
image with several captions has found one if any of them is among the first k.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.source import Source
from vit_jax.data.text import as_text, several_texts
from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.image_text import IMAGE, TEXT, Texts, blocks, checked, images_alone, text_field, texts_alone

DEPTHS = (1, 5, 10)


def best_ranks(
    queries: Float[np.ndarray, "N E"],
    owners: Int[np.ndarray, " N"],
    found: Float[np.ndarray, "M E"],
    belong: Int[np.ndarray, " M"],
) -> Int[np.ndarray, " N"]:
    """How many of what does not belong to a query are as similar to it as the best that does, or more.

    Args:
        queries, found: of length 1.
        owners, belong: what has the same number belongs together; each query has one or more.
    """
    ranks = []
    for start, cosines in blocks(queries, found):
        own = owners[start : start + len(cosines), None] == belong
        best = np.where(own, cosines, -np.inf).max(axis=1, keepdims=True)
        ranks.append(((cosines >= best) & ~own).sum(axis=1))
    return np.concatenate(ranks)


class Numbered:
    """The images of a source, each labelled by its own number."""

    label_names = ()

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._source[index], "label": int(index)}


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """`image_to_text_r1`, `r5`, `r10`: the share of images that have a text of theirs among the k most similar ones of
    all texts; `text_to_image_r1`, ... the share of texts whose image is; and the numbers of `images` and `texts`.

    Args:
        images: each with its number.
        texts: each with the number of its image.
    """

    images: EvalPipeline = dataclasses.field(hash=False)
    texts: EvalPipeline = dataclasses.field(hash=False)

    @property
    def features(self) -> dict[str, str]:
        return {"images": IMAGE, "texts": TEXT}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        images, texts = checked(run.features(self.images, IMAGE)), checked(run.features(self.texts, TEXT))
        ranks = {"image_to_text": best_ranks(*images, *texts), "text_to_image": best_ranks(*texts, *images)}
        recalls = {f"{way}_r{k}": float((rank < k).mean()) for way, rank in ranks.items() for k in DEPTHS}
        return {**recalls, "images": len(images[0]), "texts": len(texts[0])}


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None) -> Retrieval:
    """Retrieval among the pairs of `source`, or of the config's `data.eval`.

    Args:
        source: section of a source of images with one or more texts each.

    Raises:
        UserError: for a source without texts, or an image without one.
    """
    data = pipeline(source=source)
    text_field(data)
    texts, images = [], []
    for i, (raw, where) in enumerate(_texts_of(data.source)):
        for one in raw if several_texts(raw) else [raw]:
            texts.append(as_text(one, where))
            images.append(i)
    return Retrieval(images_alone(data, Numbered(data.source)), texts_alone(data, Texts(texts, images)))


def _texts_of(source: Source) -> Iterator[tuple[Any, str]]:
    """What is said of each image, and what errors call it; without reading the image where the source can."""
    known = getattr(source, "texts", None)
    for i in range(len(source)):
        example = {"text": known[i]} if known is not None else source[i]
        where = example.get("path") or f"Example {i}"
        if "text" not in example:
            raise UserError(f"{where} has no text", "Use a source of images with texts, such as 'pairs'")
        yield example["text"], where
