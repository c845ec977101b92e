"""`vit_jax.create_model`: a model by its name, with parameters as training starts from."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from vit_jax.checkpoints import store
from vit_jax.checkpoints.description import class_names, rebuilt, task_of_model
from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.zoo import zoo
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.models.names import list_models, module_and_variant
from vit_jax.naming import construct, named_module
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.ranges import check_arguments

_CLASSES = 1000  # ImageNet's
_SIZE = 224


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] = _SIZE,
    dtype: str | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Loaded:
    """A model of a published size whose parameters are drawn anew, ready to be applied.

    It is what `vit_jax.load` gives of trained ones: `m.logits(images)`, `m.features(images)`, `m.intermediate(images,
    layers)`, `m.params`, and `m.model`, the Linen module, for `m.model.apply({"params": m.params}, images)`.

    Args:
        name: one of `vit_jax.list_models()`, such as "vit:B/16" or "swin:T", or a ViT's size alone, "B/16".
        num_classes: outputs of the head; 0 for none, whose features are the result. By default 1000, or what the model
            has by default.
        image_size: pixels that the model sees: a side or (height, width). Learned positions are made for it.
        dtype: of the computation, "float32" or "bfloat16"; parameters are always float32.
        seed: of the parameters.
        kwargs: other arguments of the model's `build`, such as `drop_path_rate`.

    Raises:
        UserError: for an unknown name, size or argument, which names the nearest right one.
    """
    if "pretrained" in kwargs:
        raise UserError(
            "create_model draws new parameters",
            "Published ones: vit_jax.load(address), with an address of 'vit_jax models'",
        )
    check_arguments(create_model, {"seed": seed}, "create_model")
    _check_not_weights(name)
    module_name, variant = module_and_variant(name)
    module = named_module("model", module_name)
    given = {"num_classes": _classes(module.build) if num_classes is None else num_classes, "dtype": dtype}
    kwargs = {"variant": variant, **{key: value for key, value in given.items() if value is not None}, **kwargs}
    model = construct(module.build, kwargs, "create_model", keywords=getattr(module, "KEYS", None))
    preprocess = Preprocess(image_size)
    metadata = _metadata({"name": module_name, "kwargs": kwargs}, preprocess)
    task, fields = rebuilt(metadata, name)
    # Without computing what the model makes of the inputs; the parameters are those of `model.init`.
    shapes = jax.eval_shape(lambda: example_inputs(model, preprocess.image_size))
    variables = model.lazy_init(jax.random.key(seed), *shapes, train=False)
    state = {key: tree for key, tree in variables.items() if key != "params"}
    return Loaded(epath.Path(name), task, {"params": variables["params"], "model_state": state}, fields, metadata)


def _check_not_weights(name: str) -> None:
    """Refuses the name of published weights, such as timm's "vit_base_patch16_224" or "google/vit-base-patch16-224"."""
    wanted = str(name).rpartition("/")[2].partition(".")
    for row in zoo():
        found = row.address.rpartition("/")[2].partition(".")
        if wanted[0] == found[0] and wanted[2] in ("", found[2]):
            advice = f"Its weights: vit_jax.load('{row.address}')"
            if row.model in list_models():
                advice += f". New parameters: create_model('{row.model}')"
            raise UserError(f"{name!r} is a name of weights", advice)


def _classes(build: Any) -> int | None:
    """What `num_classes` is where nobody says: None for a model that has its own default."""
    parameter = inspect.signature(build).parameters.get("num_classes")
    return _CLASSES if parameter is None or parameter.default is parameter.empty else None


def _metadata(model: Mapping[str, Any], preprocess: Preprocess) -> dict[str, Any]:
    metadata = {
        "format": store.FORMAT,
        "step": 0,
        "config": {},
        "task": task_of_model(model),
        "model": model,
        "fields": None,
        "preprocess": preprocess.to_json(),
        "labels": [],
        "image_size": list(preprocess.image_size),
        "product": "params",
        "frozen": [],
        "versions": {},
    }
    return {**metadata, "labels": list(class_names(metadata))}
