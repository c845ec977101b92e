"""CLIP: published counts, initial values, the loss by hand, each side's outputs by itself, a run, refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.drawn import drawn
from tests.tiny import trained
from tests.tiny_pairs import CLIP, FIELDS, pairs_config
from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import clip, two_towers
from vit_jax.naming import build_named
from vit_jax.nn.at_most import at_most
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo
from vit_jax.training.config import load_config
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.optim import check_locked

# This generator compiles several times faster than the default one.
KEY = jax.random.key(0, impl="rbg")
NAMES = ("a", "b")
BERT = {"name": "bert", "width": 16, "depth": 1, "num_heads": 2, "max_length": 10}


def task_of(model=CLIP, fields=FIELDS, size=(8, 8), name="clip"):
    context = Context(None if size is None else Preprocess(size), NAMES)
    data = DataInfo(size, NAMES, build_fields(fields, context))
    return build_named("task", {"name": name}, "config.task", model=model, data=data)


def batch_of(rows=8, length=10):
    rng = np.random.default_rng(0)
    mask = np.arange(length) < rng.integers(3, length + 1, (rows, 1))
    ids = np.where(mask, rng.integers(3, 259, (rows, length)), 0).astype(np.int32)
    ids[np.arange(rows), mask.sum(1) - 1] = 2
    return {"image": rng.normal(size=(rows, 8, 8, 3)).astype(np.float32), "text": ids, "text_mask": mask}


def sizes_of(variant, size, depth, text_depth):
    """Parameters of all, and of the text trunk."""
    model = clip.build(variant=variant, depth=depth, text={"depth": text_depth})
    inputs = jax.eval_shape(lambda: model.example_inputs((size, size)))
    params = init_shapes(model.init, jax.random.key(0), *inputs)["params"]
    return np.array([sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, params["text"])])


@pytest.mark.parametrize(
    ("variant", "size", "depth", "count", "of_text"),
    [
        ("B/32", 224, 12, 151_277_313, 63_165_952),
        ("B/16", 224, 12, 149_620_737, 63_165_952),
        ("L/14", 224, 24, 427_616_513, None),
        ("L/14@336", 336, 24, 427_944_193, None),
    ],
)
def test_published_counts(variant, size, depth, count, of_text):
    """Blocks are alike, so that two depths of each tower tell the rest."""
    one, image, text = (sizes_of(variant, size, *depths) for depths in ((1, 1), (2, 1), (1, 2)))
    whole, trunk = one + (depth - 1) * (image - one) + 11 * (text - one)
    assert whole == count and of_text in (None, trunk)
    assert (clip.build(variant=variant).encoder.depth, clip.build(variant=variant).text.depth) == (depth, 12)


@pytest.mark.long
def test_the_loss_by_hand_and_each_side_by_itself():
    """From the embeddings, in float64; what is asked of one side needs nothing of the other."""
    task, batch = task_of(), batch_of()
    variables = drawn(task.init, KEY, batch)
    variables["params"]["logit_scale"] = jnp.log(1 / 0.07)
    names = {"image_embedding", "text_embedding", "logit_scale", "logit_bias", "features", "text_features"}
    assert set(variables["params"]) == {"encoder", "text", "image_projection", "text_projection", "logit_scale"}
    both = jax.jit(lambda v: task.outputs(v, batch, frozenset(names), jax.random.key(0)))(variables)
    assert {name: value.shape for name, value in both.items()} == {
        "image_embedding": (8, 8), "text_embedding": (8, 8), "logit_scale": (8,), "logit_bias": (8,),
        "features": (8, 32), "text_features": (8, 16),
    }  # fmt: skip
    images, texts = (np.asarray(both[f"{side}_embedding"], np.float64) for side in ("image", "text"))
    for side in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(side, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(both["logit_scale"], 1 / 0.07, rtol=1e-6)
    assert not both["logit_bias"].any()
    logits = images @ texts.T / 0.07
    expected = -np.mean(
        [np.log(np.exp(m[i, i]) / np.exp(m[i]).sum()) for m in (logits, logits.T) for i in range(len(m))]
    )
    loss, (metrics, _) = jax.jit(lambda v: task.loss(v, batch, jax.random.key(1), jnp.int32(0)))(variables)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert float(metrics["image_accuracy"][0]) == (logits.argmax(1) == np.arange(8)).sum()
    assert float(metrics["text_accuracy"][0]) == (logits.argmax(0) == np.arange(8)).sum()

    for side, part in (("image", {"image": batch["image"]}), ("text", {"text": batch["text"]})):
        name = f"{side}_embedding"
        alone = jax.jit(
            lambda v, part=part, name=name: task.outputs(v, part, frozenset({name, "logit_scale"}), jax.random.key(0))
        )(variables)
        np.testing.assert_allclose(alone[name], both[name], atol=1e-6)
    with pytest.raises(UserError, match="'text_embedding' is made of texts"):
        jax.eval_shape(
            lambda v: task.outputs(v, {"image": batch["image"]}, frozenset({"text_embedding"}), jax.random.key(0)),
            variables,
        )
    with pytest.raises(UserError, match="one pair has no negatives"):
        one = {name: value[:1] for name, value in batch.items()}
        jax.eval_shape(lambda v: task.loss(v, one, jax.random.key(1), jnp.int32(0)), variables)


def test_a_text_is_read_at_its_first_end_token_and_not_after_it():
    model = clip.build(**{k: v for k, v in CLIP.items() if k != "name"}, vocab_size=259, end_id=2)
    ids = np.array([[1, 70, 2, 0, 0], [1, 70, 2, 80, 2], [1, 71, 2, 0, 0]])
    inputs = model.example_inputs((8, 8))
    found = jax.jit(lambda v: model.apply(v, ids=ids)["text_embedding"])(drawn(model.init, KEY, *inputs))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-2
    # In CLIP's vocabulary the end has the largest id, and nobody need say which it is.
    model = clip.build(**{k: v for k, v in CLIP.items() if k != "name"}, vocab_size=259)
    ids = np.where(ids == 2, 258, ids)
    assert model.text_tower.ends(ids).tolist() == [2, 2, 2]


@pytest.mark.long
def test_initial_values_of_openai():
    """Standard deviations and bounds as `initialize_parameters` and PyTorch's layers draw them."""
    size = {"width": 64, "depth": 1, "num_heads": 4, "mlp_dim": 128}
    of_text = {**size, "width": 32, "mlp_dim": 96, "depth": 2}
    model = clip.build(variant="B/4", vocab_size=300, embed_dim=48, **size, text=of_text)
    inputs = model.example_inputs((32, 32))
    found = jax.jit(lambda key: model.redrawn(model.init(key, *inputs)["params"], key))(KEY)
    params = jax.tree.map(np.asarray, found)
    np.testing.assert_allclose(params["logit_scale"], np.log(1 / 0.07), rtol=1e-6)
    image, text = params["encoder"]["block_00"], params["text"]["block_01"]
    normal = {
        64**-0.5: (params["encoder"]["pos_embedding"], params["encoder"]["cls"], params["image_projection"]["kernel"]),
        0.02: (params["text"]["embedding"],),
        0.01: (params["text"]["pos_embedding"],),
        32**-0.5: (text["attention"]["query"]["kernel"], params["text_projection"]["kernel"]),
        32**-0.5 / 2: (text["attention"]["out"]["kernel"], text["mlp"]["fc2"]["kernel"]),
        64**-0.5 + 1e-9: (text["mlp"]["fc1"]["kernel"],),
    }
    for stddev, leaves in normal.items():
        for leaf in leaves:
            np.testing.assert_allclose(leaf.std(), stddev, rtol=0.3 if leaf.size < 100 else 0.1)
    bounds = {
        (4 * 4 * 3) ** -0.5: params["encoder"]["embedding"]["kernel"],
        (6 / 256) ** 0.5: image["attention"]["query"]["kernel"],
        64**-0.5: image["attention"]["out"]["kernel"],
        64**-0.5 + 1e-9: image["mlp"]["fc1"]["bias"],
        128**-0.5: image["mlp"]["fc2"]["kernel"],
        96**-0.5: text["mlp"]["fc2"]["bias"],
    }
    for bound, leaf in bounds.items():
        assert 0.85 * bound < np.abs(leaf).max() <= bound + 1e-6
    assert not any(tower["attention"][name]["bias"].any() for tower in (image, text) for name in ("query", "out"))


def test_a_limit_that_a_parameter_comes_back_from():
    x, slope = jnp.array([1.0, 1.0, 3.0, 3.0]), jnp.array([0.5, -0.5, 0.5, -0.5])
    value, gradient = jax.jit(jax.value_and_grad(lambda x: (slope * at_most(x, 2.0)).sum()))(x)
    assert gradient.tolist() == [0.5, -0.5, 0.5, 0.0]
    assert value == 0.5 - 0.5 + 1.0 - 1.0


def test_any_two_towers():
    """A text tower of its own name is BERT's, trained or from a published file; widths must fit where nothing projects."""
    image = {"name": "vit", "variant": "mu/4", "pooling": "mean"}
    model = {"name": "two_towers", "image": image, "text": BERT, "project_image": "none", "project_text": "bias"}
    task, batch = task_of(model), batch_of()
    params = init_shapes(task.init, jax.random.key(0), batch)["params"]
    assert set(params) == {"encoder", "text", "pooler", "text_projection", "logit_scale"}
    assert params["text_projection"]["kernel"].shape == (16, 32)
    assert two_towers.downstream(task.model_spec["kwargs"]) == image
    # Of layer-wise rates the last block of either tower has the full one.
    assert task.layers()[-1] == ("encoder/block_00", "text/block_00")
    lengths = {"image": batch["image"], "text": batch["text"]}
    assert task.forward_flops(lengths) == sum(task.forward_flops({name: x}) for name, x in lengths.items()) > 0
    assert task_of({**CLIP, "text": BERT}).model.text_tower.pooler
    with pytest.raises(UserError, match="width 16, to be compared with others of width 32"):
        init_shapes(task_of({**model, "project_text": "none", "embed_dim": 32}).init, jax.random.key(0), batch)


def test_words_in_no_order():
    """The other text tower of the paper's pseudo-code: the mean of the tokens that are no padding."""
    task = task_of({**CLIP, "scan": True, "text": {"name": "cbow", "width": 16}})
    batch = batch_of()
    variables = drawn(task.init, KEY, batch)
    assert jax.tree.map(jnp.shape, variables["params"]["text"]) == {"embedding": (259, 16)}
    turned = {"text": batch["text"][:, ::-1], "text_mask": batch["text_mask"][:, ::-1]}
    features = frozenset({"text_features"})
    found, other, without = jax.jit(
        lambda v: [
            task.outputs(v, part, features, KEY)["text_features"] for part in (batch, turned, {"text": batch["text"]})
        ]
    )(variables)
    table = np.asarray(variables["params"]["text"]["embedding"], np.float64)
    expected = [table[ids[mask]].mean(0) for ids, mask in zip(batch["text"], batch["text_mask"], strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(other, expected, atol=1e-7)
    assert np.abs(without - found).max() > 1e-4
    loss = jax.jit(lambda v: task.loss(v, batch, KEY, jnp.int32(0))[0])(variables)
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ({**CLIP, "temperature": 0.005}, "temperature of 0.005 is out of range.*from 0.01"),
        ({**CLIP, "temperature": 2.0}, "temperature of 2 is out of range"),
        ({"name": "vit", "variant": "mu/4", "num_classes": 3}, "vocab_size"),
        ({**CLIP, "widht": 3}, "widht"),
        ({"name": "two_towers", "image": {"name": "vit", "variant": "mu/4"}}, "config.model.text"),
    ],
)
def test_models_that_are_refused(model, match):
    with pytest.raises(UserError, match=match):
        task_of(model)


def test_data_that_is_refused():
    with pytest.raises(UserError, match="the texts have none"):
        task_of(fields=FIELDS | {"text": {"name": "tokens", "length": 10, "eos": False}})
    with pytest.raises(UserError, match="no images"):
        task_of(fields={"text": FIELDS["text"]}, size=None)


def test_a_locked_tower_without_weights_is_refused_before_the_first_step(tmp_path):
    values = pairs_config(tmp_path, optim={"name": "adamw", "learning_rate": 0.01, "frozen": ["encoder/.*"]})
    with pytest.raises(UserError, match="locks 'encoder', and no weights are given"):
        train(build_experiment(values), tmp_path / "run", jax.devices()[:1])
    assert not (tmp_path / "run").exists()


def test_which_towers_may_be_locked():
    frozen = {"encoder": {"a": True, "b": True}, "text": {"a": True, "b": False}, "head": True}
    check_locked(frozen, ("encoder", "text"), "a path")
    check_locked(frozen, ("encoder", "text"), {"encoder": "a path"})
    check_locked(frozen, ("text", "decoder"), None)
    with pytest.raises(UserError, match="init_from.encoder"):
        check_locked(frozen, ("encoder", "text"), {"text": "a path"})


@pytest.mark.long
def test_what_a_locked_tower_gave_before_takes_the_place_of_the_image():
    """The loss of features or embeddings in the batch is that of the images."""
    task, batch = task_of(), batch_of()
    variables = jax.jit(task.init)(KEY, batch)
    names = frozenset({"features", "image_embedding"})
    known = jax.jit(lambda v: task.outputs(v, batch, names, KEY))(variables)
    texts = {name: batch[name] for name in ("text", "text_mask")}
    batches = [batch, *({**texts, name: known[name]} for name in sorted(names))]
    assert set(task.takes) == names
    losses = jax.jit(lambda v: [task.loss(v, b, KEY, jnp.int32(0))[0] for b in batches])(variables)
    np.testing.assert_allclose(losses, [losses[0]] * 3, rtol=1e-5)


def test_the_settings_of_lit():
    """What is locked, and what is loaded; a setting that lacks its weights, or has some that it would not use, is
    refused."""

    def said(argument):
        config = load_config(f"lit:{argument}")
        return list(config["optim"]["frozen"]), sorted(config.get("init_from") or ())

    assert said("init=a") == (["encoder/.*"], ["encoder"])
    assert said("setting=LU,init=a,text=b") == (["encoder/.*"], ["encoder", "pooler", "text"])
    assert said("setting=UU,init=a,text=b") == ([], ["encoder", "pooler", "text"])
    assert said("setting=uu") == ([], [])
    for argument, match in (
        ("setting=Lu", "image tower from a pretrained one"),
        ("setting=uu,init=a", "image tower from scratch"),
        ("setting=LU,init=a", "text tower from a BERT"),
        ("init=a,text=b", "text tower from scratch"),
        ("setting=lu,init=a", "no setting 'lu'"),
        ("init=a,loss=sigmoid", "no loss 'sigmoid'"),
    ):
        with pytest.raises(UserError, match=match):
            said(argument)


@pytest.mark.long
def test_a_locked_image_tower_stays_what_it_was_loaded_as(tmp_path):
    """LiT: the text tower learns, from a BERT of its own or from nothing; the image tower is that of the checkpoint."""
    trained(tmp_path / "vit")
    model = {"name": "two_towers", "image": {"name": "vit", "variant": "mu/4", "pooling": "mean"}, "text": BERT}
    values = pairs_config(
        tmp_path, {**model, "project_image": "none", "project_text": "bias"},
        optim={"name": "adamw", "learning_rate": 0.01, "frozen": ["encoder/.*"]}, init_from={"encoder": str(tmp_path / "vit")},
    )  # fmt: skip
    train(build_experiment(values), tmp_path / "lit", jax.devices()[:1])
    before, after = vit_jax.load(tmp_path / "vit").params, vit_jax.load(tmp_path / "lit").params
    jax.tree.map(np.testing.assert_array_equal, after["encoder"], before["encoder"])
    fresh = build_experiment(values).task.init(jax.random.key(0), batch_of())["params"]
    assert np.abs(after["text_projection"]["bias"]).max() > 0 == np.abs(fresh["text_projection"]["bias"]).max()


@pytest.mark.long
def test_pairs_are_learned(tmp_path):
    """Four colours and their names: of 8 pairs two of each, so that half of the right ones can be told."""
    train(build_experiment(pairs_config(tmp_path, steps=24, log_every=12)), tmp_path / "run", jax.devices()[:1])
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < np.log(8) / 2
    loaded = vit_jax.load(tmp_path / "run")
    assert type(loaded.task).__name__ == "CLIP"
    with pytest.raises(UserError, match="every image is compared"):
        train(build_experiment(pairs_config(tmp_path, microbatch=4)), tmp_path / "again", jax.devices()[:1])
