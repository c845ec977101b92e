"""`vit_jax.load`: a task with its parameters, labels and preprocessing from a path alone."""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Shaped

from vit_jax.checkpoints.channels import channels_of, fit_channels
from vit_jax.checkpoints.description import described_data, rebuilt
from vit_jax.checkpoints.generation import generate
from vit_jax.checkpoints.given_pictures import read_pictures
from vit_jax.checkpoints.intermediate import intermediate, layer_names
from vit_jax.checkpoints.part import part_of
from vit_jax.checkpoints.patch_size import described_at
from vit_jax.checkpoints.prompted import Prompted
from vit_jax.checkpoints.sampling import BATCH_SIZE, Samples, sample, settings_of
from vit_jax.checkpoints.source import open_source
from vit_jax.checkpoints.tokenized import image_rows, tokenized
from vit_jax.checkpoints.transfer import fit_positions, resize_method
from vit_jax.checkpoints.zero_shot import check_two_towers, classifier
from vit_jax.data.batch import NotedBatch
from vit_jax.data.decode import decode
from vit_jax.data.fields import Fields
from vit_jax.data.pixels import as_rgb
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.ranges import check_seed
from vit_jax.tasks import Answer, Batch, Task, Variables, example_keys
from vit_jax.tasks.features import Features
from vit_jax.tasks.zero_shot import CLASSES


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A task ready to use.

    Args:
        path: the step directory or the file that it came from.
        task: what was trained, rebuilt.
        variables: `{"params": ..., "model_state": ...}`, nested dicts of float32 arrays.
        fields: how its inputs are read and prepared, as in training's evaluation.
        metadata: what the checkpoint says about itself, with the whole config of its run.
        resized: positions that were interpolated for another `image_size`, as 'encoder/pos_embedding (4, 4) -> (8, 8)'.
    """

    path: epath.Path
    task: Task
    variables: Variables
    fields: Fields
    metadata: Mapping[str, Any]
    resized: tuple[str, ...] = ()

    @property
    def model(self) -> nn.Module | None:
        """The Linen module of a task that has one: `model.apply({"params": params, **model_state}, x, train=False)`
        returns a dict."""
        return self.task.model

    @property
    def params(self) -> dict[str, Any]:
        """Nested dict of float32 arrays."""
        return self.variables["params"]

    @property
    def model_state(self) -> dict[str, Any]:
        """Further collections (batch statistics); empty for a ViT."""
        return self.variables["model_state"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return tuple(self.metadata["labels"])

    @property
    def preprocess(self) -> Preprocess | None:
        """Path, bytes or uint8 [H, W, 3] -> float32 [H, W, 3], exactly as in training's evaluation; None for a task
        without images."""
        return self.fields["image"].preprocess if "image" in self.fields else None

    def outputs(
        self, batch: Batch | Float[Array, "B H W 3"], names: Collection[str] | None = None, seed: int = 0
    ) -> dict[str, Array]:
        """Outputs of the task by name.

        Args:
            batch: arrays by the name of their field, as the task's evaluation has them on the host (uint8 images are
                normalised, floats are taken as preprocessed); or preprocessed images alone.
            names: of the outputs; None for all that its model gives.
            seed: of samples: sample i depends on it, and on "index" [B] of the batch (by default the row) alone.

        Raises:
            UserError: an output that the task does not give, a field that is missing, images of another form, or a
                seed below 0 or beyond 32 bits.
        """
        check_seed(seed)
        if not isinstance(batch, Mapping):
            batch = {"image": self._checked(batch)}
        if names is None and self.model is None:
            raise UserError("This task has more than one model", "Name the outputs: outputs(batch, ('features',))")
        wanted = None if names is None else frozenset([names] if isinstance(names, str) else names)
        return self._outputs(self.variables, {k: jnp.asarray(x) for k, x in batch.items()}, np.uint32(seed), wanted)

    def features(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        """What the head sees, float32."""
        return self.outputs(images, ("features",))["features"]

    def logits(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Class scores before softmax or sigmoid, float32."""
        return self.outputs(images, ("logits",))["logits"]

    def maps(self, images: Batch | Float[Array, "B H W 3"]) -> dict[int, Float[Array, "B h w C"]]:
        """Feature maps by their stride in pixels, the finest first.

        Args:
            images: as for `outputs`.

        Raises:
            UserError: a model that has none.
        """
        found = self.outputs(images, ("maps",))["maps"]
        return {stride: found[stride] for stride in sorted(found)}

    def intermediate(
        self, images: Batch | Float[Array, "B H W 3"], layers: int | str | Sequence[int | str]
    ) -> list[Float[Array, "B ..."]]:
        """What layers inside the model give, float32, in the order in which they are asked for: tokens [B, T, D] of the
        blocks of a Transformer, before its last norm; a map [B, h, w, C] of convolutions.

        Args:
            images: as for `outputs`.
            layers: numbers of blocks from 0, or from the end below 0; or the names of modules, as parameters have them:
                "encoder/block_03/mlp"; or one of these.

        Raises:
            UserError: a layer that is not there; it names the nearest one.
        """
        if self.model is None:
            raise UserError("This task has more than one model", "Load one of them by part=")
        batch = dict(images) if isinstance(images, Mapping) else {"image": self._checked(images)}
        return list(self._intermediate(self.variables, batch, layer_names(self.model, layers)))

    def tokenize(self, texts: str | Sequence[str]) -> dict[str, Shaped[np.ndarray, "N L"]]:
        """The field of texts as `outputs` takes it: ids int32 [N, L], and bool [N, L] where there is no padding.

        Raises:
            UserError: the model reads no texts.
        """
        return tokenized(self.fields, [texts] if isinstance(texts, str) else texts, self.path)

    def embed_images(
        self, images: Sequence[Any] | Float[Array, "N H W 3"], batch_size: int = 32
    ) -> Float[np.ndarray, "N E"]:
        """What images are compared with texts by: vectors of length 1, float32.

        Args:
            images: paths, bytes or uint8 [H, W, 3], which are prepared as in training's evaluation; or a float array of
                images that are prepared.
            batch_size: of which so many are embedded at once.

        Raises:
            UserError: the model has no such embedding, or there is one image by itself, whose rows would be taken for
                images.
        """
        shape = np.shape(images) if hasattr(images, "ndim") else ()
        alone = len(shape) == 3 and shape[-1] in (1, 3, 4)
        if alone or isinstance(images, (bytes, str, os.PathLike)) or hasattr(images, "getexif"):
            raise UserError("This is one image, not several", "Put it into a list: embed_images([image])")
        prepared = getattr(images, "ndim", 0) == 4 and np.issubdtype(images.dtype, np.floating)
        if self.preprocess is None and not prepared:
            raise UserError(f"{self.path} takes no images", "Load a model of images and texts")

        def batch(some: slice) -> Batch:
            return {"image": self._checked(images[some])} if prepared else image_rows(self.fields, images[some])

        return self._embedded("image_embedding", batch, len(images), batch_size)

    def embed_texts(self, texts: str | Sequence[str], batch_size: int = 32) -> Float[np.ndarray, "N E"]:
        """The same of texts."""
        tokens = self.tokenize(texts)
        count = len(next(iter(tokens.values())))
        return self._embedded("text_embedding", lambda some: {k: x[some] for k, x in tokens.items()}, count, batch_size)

    def zero_shot(
        self,
        labels: str | Sequence[str] | Mapping[str, Any],
        templates: str | Sequence[str] | None = None,
        *,
        hierarchy: str | Mapping[str, Sequence[str]] | None = None,
        joined: bool = False,
        reweighted: bool = True,
    ) -> "Loaded":
        """A classifier of images into classes that are texts: `logits`, `labels`, predict and evaluate work on it.

        Each class is the mean of the embeddings of its names in all templates, made of length 1 (CLIP,
        arXiv:2103.00020, section 3.1.4).

        Args:
            labels: ["a cat", "a dog"], a mapping of labels to names, the name of a packaged data set ("imagenet"), or a
                file, see `vit_jax.data.label_set.label_set`.
            templates: "imagenet" for the 80 of ImageNet, "photo" for 'a photo of a {}.', a list, or a file, see
                `vit_jax.data.prompts.templates_of`; by default labels stand by themselves.
            hierarchy: {label: [subclasses]} or a .json file with it: the class of the likeliest subclass is the answer
                (CHiLS, arXiv:2302.02551).
            joined: whether a subclass is called "{sub} {super}" where its name has not that of its class in it.
            reweighted: whether a subclass's probability is multiplied by its class's, as in the paper.

        Raises:
            UserError: a model without texts, a label that is empty or there twice, a template without {}, a subclass
                with two parents.
        """
        self.check_two_towers()
        given = (labels, templates, hierarchy, joined, reweighted)
        task, classes, fields = classifier(self.task, self.fields, self.embed_texts, *given)
        return dataclasses.replace(
            self,
            task=task,
            variables={**self.variables, CLASSES: classes},
            fields=fields,
            metadata={**self.metadata, "labels": list(task.classes), "fields": fields.to_json()},
        )

    def check_two_towers(self) -> None:
        """Refuses a checkpoint that does not have images and texts in one space, with a UserError."""
        check_two_towers(self.task, self.fields, self.path)

    def generate(
        self, prompts: str | Sequence[str], *, samples: int = 1, seed: int = 0, batch_size: int = 32, **settings: Any
    ) -> list[list[Answer]]:
        """Samples that follow prompts, such as texts that go on; see `vit_jax.checkpoints.generation.generate`."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        return generate(self.task, self.variables, prompts, settings, samples, seed, batch_size)

    def sample(
        self,
        count: int,
        *,
        prompts: str | Sequence[str] = (),
        pictures: Mapping[str, Any] | None = None,
        paste: bool = False,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        rows: NamedSharding | None = None,
        **settings: Any,
    ) -> Samples:
        """The first `count` images that a generator draws: image i depends on the checkpoint, the settings, `seed`, i
        and its prompt alone, see `vit_jax.checkpoints.sampling.sample`.

        Args:
            prompts: what they are asked to be, one after the other and again from the first, or one text for all;
                classes by name or number where the generator knows classes.
            pictures: what they go by beside that, such as {"image": "photo.jpg", "mask": "mask.png"}: paths, bytes or
                arrays, see `vit_jax.checkpoints.given_pictures.read_pictures`, and which `self.task.pictures` names.
            paste: where a mask leaves an image as it is, samples get its own pixels, to the bit.
            rows: how images are split over devices, as `vit_jax.training.sharding.batch_sharding` says it; None for
                one device.
            settings: of the task's `sampling`, such as `guidance`; the others as the paper has them.

        Raises:
            UserError: for a task that draws no images, a setting that it does not have or not with that value, or a
                prompt or pictures that it cannot follow.
        """
        if count < 1:
            raise UserError(f"count is {count}", "Ask for at least 1")
        chosen = settings_of(self.task, settings, "a generator of images")
        read = read_pictures(self.task, chosen, pictures or {}, self.preprocess)
        drawn = sample(
            self.task, self.variables, range(count), settings=chosen, prompts=prompts, pictures=read, paste=paste,
            seed=seed, batch_size=batch_size, rows=rows,
        )  # fmt: skip
        return Samples.joined(list(drawn))

    def prompted(self, photo: Any) -> Prompted:
        """A photo that is embedded now, and then answers any number of prompts: `p(points=[(120, 80)])`, or a box, a
        mask, for some models a text, or several of them, see `vit_jax.checkpoints.prompted.Prompted`.

        Args:
            photo: a path, encoded bytes, or uint8 [H, W, 3].

        Raises:
            UserError: for a model that takes no prompts.
        """
        self.check_prompts()
        encoded = isinstance(photo, (bytes, str, os.PathLike))
        shown = decode(photo) if encoded else as_rgb(photo)
        embed_text = (lambda text: self.embed_texts(text)[0]) if "text" in self.fields else None
        return Prompted(self.task, self.variables, self.preprocess, shown, embed_text)

    def check_prompts(self) -> None:
        """Refuses a checkpoint of a model that takes no prompts, with a UserError."""
        if not hasattr(self.model, "predict") or self.preprocess is None:
            raise UserError(f"{self.path} takes no prompts", "Use a checkpoint of SAM, or of a run of the task 'sam'")

    def _embedded(
        self, name: str, batch: Callable[[slice], Batch], count: int, batch_size: int
    ) -> Float[np.ndarray, "N E"]:
        """An output of so many rows, of which `batch` gives some."""
        if not count:
            raise UserError("There is nothing to embed", "Give one image or text at least")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}", "Ask for at least 1")
        starts = range(0, count, batch_size)
        return np.concatenate([self.outputs(batch(slice(at, at + batch_size)), name)[name] for at in starts])

    def _checked(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        images = images if isinstance(images, jax.Array) else np.asarray(images)
        if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
            raise UserError(
                f"The model takes a float batch of images [B, H, W, 3], not {images.dtype} {list(images.shape)}",
                "Stack preprocessed images: np.stack([m.preprocess(path), ...])",
            )
        channels = channels_of(self.params)
        if channels not in (None, images.shape[-1]):
            raise UserError(
                f"The model takes images of {channels} channels, not {images.shape[-1]}",
                f"Prepare images [B, H, W, {channels}] yourself: `preprocess` makes those of RGB",
            )
        return images

    @functools.cached_property
    def _outputs(self) -> Callable[..., dict[str, Array]]:
        @functools.partial(jax.jit, static_argnums=3)
        def outputs(variables: Variables, batch: Batch, seed: Array, names: frozenset[str] | None) -> dict[str, Array]:
            batch = self._on_device(batch)
            if names is None:
                collections = {"params": variables["params"], **variables["model_state"]}
                args = (batch["image"],) if "image" in batch else example_inputs(self.model, None)
                names = frozenset(jax.eval_shape(lambda v, *x: self.model.apply(v, *x), collections, *args))
            return self.task.outputs(variables, batch, names, example_keys(seed, batch))

        return outputs

    @functools.cached_property
    def _intermediate(self) -> Callable[..., tuple[Array, ...]]:
        @functools.partial(jax.jit, static_argnums=2)
        def computed(variables: Variables, batch: Batch, names: tuple[str, ...]) -> tuple[Array, ...]:
            collections = {"params": variables["params"], **variables["model_state"]}
            return intermediate(self.model, collections, self._on_device(batch)["image"], names)

        return computed

    def _on_device(self, batch: Batch) -> Batch:
        """What the task is given: bytes as numbers of its kind, floats as they are."""
        floats = {k: x for k, x in batch.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        return NotedBatch(self.fields.on_device({k: x for k, x in batch.items() if k not in floats}) | floats)


def load(
    path: epath.PathLike,
    *,
    model: Callable[..., nn.Module] | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_channels: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    sha256: str | None = None,
    allow_nonfinite: bool = False,
    checksums: bool = True,
    average: int | None = None,
    part: str | None = None,
    base: str | None = None,
) -> Loaded:
    """Loads a checkpoint, whoever wrote it: the README lists the families and formats.

    Args:
        path: a workdir of this project (its newest step) or a step directory `checkpoints/<step>`; a .safetensors or
            .npz file of published weights, or a folder with one, or with a LoRA of PEFT; local, a URL, or
            'hf://owner/name'.
        model: builds the module from the stored keyword arguments, for models that live outside vit_jax; what is loaded
            gives the outputs of that model.
        image_size: pixels that the model is to see, instead of those that it was trained on: a side or (height,
            width). Learned positions are interpolated, the way that goes with the weights; `Loaded.resized` names them.
        patch_size: pixels of a side of a patch, of a ViT: the kernel of the patches is resampled and positions are
            interpolated, see `vit_jax.checkpoints.patch_size`. What was not trained as a FlexiViT is best at its own.
        in_channels: channels of the images that the model is to take, which the caller prepares; the first kernel is
            summed for one and repeated for more, see `fit_channels`.
        overrides: arguments of a published model that its file does not say and vit_jax would guess, such as
            `num_heads`, `gelu` or `layer_norm_epsilon`; of a run's model those that leave its parameters as they are.
        sha256: what a published file must hash to.
        allow_nonfinite: also load parameters that are NaN or infinite, which are an error otherwise.
        checksums: False skips comparing what is read from a checkpoint of this project with the checksums saved in it.
        average: of a workdir's last checkpoints so many are averaged, parameter by parameter; None for the newest.
        part: "encoder" or "text" for one tower of a model of images and texts, without what compares it with the other;
            of any other image model the first is the model without its head. None for all.
        base: where the checkpoint lies now beside which adapters were trained, where these name another place.

    Raises:
        UserError: no checkpoint there, damaged, newer than this version, of an unknown task or model, with a tensor
            missing or left over, with another hash, or without the part.
    """
    overrides = dict(overrides or {})
    patch_size = overrides.pop("patch_size", patch_size)
    source = open_source(
        path, overrides=overrides, sha256=sha256, allow_nonfinite=allow_nonfinite, checksums=checksums, average=average,
        base=base,
    )  # fmt: skip
    source = source if part is None else part_of(source, part)
    metadata = dict(source.metadata)
    if image_size is not None:
        metadata |= _resized(metadata, image_size, source.path)
    method, unneeded = resize_method(metadata["model"]), ()
    if patch_size is not None:
        metadata, method, unneeded = described_at(metadata, patch_size, source.path)
    if model is None:
        task, fields = rebuilt(metadata, source.path)
    else:
        task, fields = _outside(model, metadata, source.path), described_data(metadata).fields
    params, model_state = source.read()
    params = {name: tree for name, tree in params.items() if name not in unneeded}
    resized: tuple[str, ...] = ()
    if image_size is not None or patch_size is not None:
        if task.model is None:
            raise UserError(f"{source.path} has several models, which are not resized", "Leave image_size out")
        size = tuple(metadata["image_size"])
        params, resized = fit_positions(params, task.model, size, method)
    if in_channels is not None:
        params = fit_channels(params, in_channels)
    return Loaded(source.path, task, {"params": params, "model_state": model_state}, fields, metadata, resized)


def _resized(metadata: Mapping[str, Any], image_size: int | tuple[int, int], path: epath.Path) -> dict[str, Any]:
    """Of the metadata what says how large images are, for another size."""
    if metadata["preprocess"] is None:
        raise UserError(f"{path} takes no images", "Leave image_size out")
    preprocess = Preprocess.from_json(metadata["preprocess"]).resized(image_size)
    return {"preprocess": preprocess.to_json(), "image_size": list(preprocess.image_size)}


def _outside(build: Callable[..., nn.Module], metadata: Mapping[str, Any], path: epath.Path) -> Task:
    spec, task = metadata["model"], metadata["task"] or {"kwargs": {}}
    if spec is None:
        raise UserError(f"{path} names no model to rebuild", "Read it with vit_jax.checkpoints.store.read_params")
    module = construct(build, spec["kwargs"], "metadata.model")
    return Features(module, spec, task["kwargs"].get("objective", "softmax"))
