"""What is carried over from one checkpoint to another model, and what is said about it."""

import jax
import numpy as np
import pytest
from etils import epath

import vit_jax
from tests.tiny import tiny_config, tiny_run, untrained
from tests.tiny_contrastive import RESNET, contrastive_config
from vit_jax import UserError
from vit_jax.checkpoints import transfer
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.checkpoints.transfer import check_sources, init_from
from vit_jax.models import resnet, vit
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.posemb import fitted_positions, interpolate_posemb
from vit_jax.training.experiment import build_experiment
from vit_jax.training.open_run import open_run
from vit_jax.training.parameters import leaf_names


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    untrained(folder, tiny_config(model__representation_size=16))
    params, _ = read_params(find(folder))
    return folder, jax.tree.map(np.asarray, params)


def shapes(size=(8, 8), **kwargs):
    model = vit.build(**{"variant": "mu/4", "num_classes": 5, "pooling": "mean", **kwargs})
    return init_shapes(model.init, jax.random.key(0), np.zeros((1, *size, 3), np.float32))["params"]


def test_bare_path_takes_all_but_the_head(pretrained):
    folder, params = pretrained
    found, [report] = init_from({"params": shapes((16, 24))}, str(folder))
    assert report.missing == ("head/bias", "head/kernel")
    assert report.resized == ("encoder/pos_embedding (2, 2) -> (4, 6)",)
    assert report.unused == ("head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel")
    np.testing.assert_array_equal(found["params/encoder/norm/scale"], params["encoder"]["norm"]["scale"])
    resized = interpolate_posemb(params["encoder"]["pos_embedding"], (4, 6))
    np.testing.assert_array_equal(found["params/encoder/pos_embedding"], resized)
    assert "resized    1  encoder/pos_embedding (2, 2) -> (4, 6)" in str(report)
    assert "pre_logits (2 arrays)" not in str(report) and "unused     4" in str(report)


@pytest.mark.parametrize("sources", ["{}", {"encoder": "{}"}])
def test_positions_are_resized_as_their_source_says(sources, tmp_path):
    untrained(tmp_path, tiny_config(model__posemb_resize="bicubic_antialias"))
    params, _ = read_params(find(tmp_path))
    sources = str(tmp_path) if isinstance(sources, str) else {"encoder": str(tmp_path)}
    found, _ = init_from({"params": shapes((16, 24))}, sources)
    positions = np.asarray(params["encoder"]["pos_embedding"])
    np.testing.assert_array_equal(
        found["params/encoder/pos_embedding"], interpolate_posemb(positions, (4, 6), "bicubic_antialias")
    )


def test_what_follows_is_said_by_name_and_shape():
    """A table of another window and a grid follow; other heads, another width, and what has another name do not."""
    table, grid = np.zeros((9, 2), np.float32), np.zeros((2, 2, 8), np.float32)
    assert fitted_positions("a/relative_position_bias_table", table, (49, 2)).shape == (49, 2)
    assert fitted_positions("pos_embedding", grid, (4, 3, 8)).shape == (4, 3, 8)
    for name, value, shape in (
        ("a/relative_position_bias_table", table, (49, 4)),
        ("a/relative_position_bias_table", table, (48, 2)),
        ("a/pos_embedding", grid, (4, 3, 16)),
        ("a/pos_embedding", grid[0], (4, 8)),
        ("a/cls", grid, (4, 3, 8)),
    ):
        assert fitted_positions(name, value, shape) is None


@pytest.mark.long
def test_a_window_that_shrinks_takes_its_table_along(tmp_path):
    """At 16 pixels the second stage of this Swin has 2x2 places, and so a window of 2; the first keeps its window."""
    own = {"name": "swin", "variant": "T", "width": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    untrained(tmp_path, tiny_config(**{f"model__{k}": v for k, v in own.items()}, data__image_size=(32, 32)))
    loaded = vit_jax.load(tmp_path, image_size=16)
    assert loaded.resized == ("encoder/stage_1/block_00/relative_position_bias_table (49,) -> (9,)",)
    assert loaded.logits(np.zeros((1, 16, 16, 3), np.float32)).shape == (1, 10)
    assert vit_jax.load(tmp_path, image_size=64).resized == ()


def test_subtrees_from_sources(pretrained):
    folder, params = pretrained
    found, [report] = init_from({"params": {"trunk": shapes()["encoder"]}}, {"trunk": f"{folder}::encoder"})
    np.testing.assert_array_equal(found["params/trunk/norm/bias"], params["encoder"]["norm"]["bias"])
    assert not report.missing and not report.unused


def test_a_source_of_several_subtrees_is_read_once(pretrained, monkeypatch):
    """As Stable Diffusion's U-Net is taken but for its first convolution: part after part, of one file of gigabytes."""
    folder, params = pretrained
    opened, real = [], transfer.open_source
    monkeypatch.setattr(transfer, "open_source", lambda path: opened.append(path) or real(path))
    sources = dict.fromkeys([f"encoder/{name}" for name in params["encoder"]], str(folder))
    check_sources(sources)
    assert opened == [str(folder)]
    found, reports = init_from({"params": shapes()}, sources)
    assert opened == [str(folder)] * 2 and len(reports) == len(sources) > 2
    assert {name.removeprefix("params/encoder/") for name in found} == set(leaf_names(params["encoder"]))


def test_a_whole_model_below_another_s_name(convolutional):
    """A teacher: all that its source has, parameters and statistics, without the parts that the teacher lacks."""
    folder, _, state = convolutional
    teacher = {collection: {"teacher": tree} for collection, tree in resnet_shapes().items()}
    del teacher["params"]["teacher"]["head"]
    found, [report] = init_from(teacher, {"teacher": f"{folder}::"})
    assert not report.missing and set(report.loaded) == set(leaf_names(teacher["params"]))
    name = "encoder/stage1_unit01/norm1/mean"
    statistics = state["batch_stats"]["encoder"]["stage1_unit01"]["norm1"]["mean"]
    np.testing.assert_array_equal(found[f"batch_stats/teacher/{name}"], statistics)
    with pytest.raises(UserError, match="no parameter in common"):
        init_from(teacher, {"teacher": str(folder)})  # that would be the source's own teacher
    # A tokenizer is the whole of its checkpoint, and a part of what generates its tokens.
    tokenizer = {collection: {"tokenizer": tree["teacher"]} for collection, tree in teacher.items()}
    found, [report] = init_from(tokenizer, {"tokenizer": str(folder)})
    assert not report.missing
    np.testing.assert_array_equal(found[f"batch_stats/tokenizer/{name}"], statistics)


def test_all_that_no_other_source_fills(pretrained):
    """Heads too, and beside it a second checkpoint whole."""
    folder, params = pretrained
    fresh = shapes(num_classes=10, representation_size=params["pre_logits"]["bias"].shape[0])
    found, [report, other] = init_from({"params": fresh | {"judge": fresh}}, {"": str(folder), "judge": f"{folder}::"})
    names = set(leaf_names(fresh))
    assert set(report.loaded) == names and set(other.loaded) == {f"judge/{name}" for name in names}
    np.testing.assert_array_equal(found["params/head/kernel"], params["head"]["kernel"])
    np.testing.assert_array_equal(found["params/judge/head/kernel"], params["head"]["kernel"])


@pytest.mark.long
def test_a_run_starts_from_it_with_a_zero_head(pretrained, tmp_path):
    folder, params = pretrained
    tiny_run(tmp_path, init_from=folder, steps=1, model__representation_size=16, ema_decay=0.9,
             optim__learning_rate=0.0, optim__schedule__warmup_steps=0)  # fmt: skip
    for product in ("params", "ema"):
        now, _ = read_params(find(tmp_path), product)
        assert not np.any(now["head"]["kernel"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), now["encoder"], params["encoder"])


@pytest.mark.parametrize(
    ("kwargs", "sources", "message"),
    [
        ({"width": 16}, "{}", "of shape .* the model needs"),
        ({}, {"trunk": "{}"}, "fills 'trunk', which the model does not have"),
        (
            {},
            {"encoder": "{}::head"},
            "no parameter in common.*'encoder' has them: config.init_from.encoder=.*::encoder",
        ),
        ({}, {"encoder": "{}::nothing"}, "no parameter in common"),
        ({}, "{}-gone", "There is no checkpoint at"),
    ],
)
def test_mistakes_get_a_sentence(pretrained, kwargs, sources, message):
    fill = lambda text: text.format(pretrained[0])  # noqa: E731
    sources = fill(sources) if isinstance(sources, str) else {k: fill(v) for k, v in sources.items()}
    with pytest.raises(UserError, match=message):
        init_from({"params": shapes(**kwargs)}, sources)


@pytest.mark.long
def test_resuming_wins_over_init_from(pretrained, tmp_path):
    folder, _ = pretrained
    changes = {"init_from": folder, "model__representation_size": 16}
    tiny_run(tmp_path / "parts", stop_at=3, **changes)
    tiny_run(tmp_path / "parts", **changes)
    tiny_run(tmp_path / "whole", **changes)
    trees = [read_params(find(tmp_path / name))[0] for name in ("parts", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory):
    """A ResNet with SimCLR, whose statistics are not the initial ones."""
    folder = tmp_path_factory.mktemp("convolutional")
    untrained(folder, contrastive_config("simclr", RESNET))
    params, state = read_params(find(folder))
    assert np.abs(state["batch_stats"]["encoder"]["norm1"]["mean"]).max() > 0.01
    return folder, jax.tree.map(np.asarray, params), jax.tree.map(np.asarray, state)


def resnet_shapes(**kwargs):
    model = resnet.build(**{key: value for key, value in RESNET.items() if key != "name"}, num_classes=5, **kwargs)
    return init_shapes(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))


def test_statistics_come_with_the_parameters_of_their_subtree(convolutional):
    folder, _, state = convolutional
    statistics = state["batch_stats"]["encoder"]
    found, [report] = init_from(resnet_shapes(), str(folder))
    mean = found["batch_stats/encoder/stage1_unit01/norm1/mean"]
    np.testing.assert_array_equal(mean, statistics["stage1_unit01"]["norm1"]["mean"])
    count = len(jax.tree.leaves(statistics))
    assert set(report.missing) == {"head/bias", "head/kernel"} and len(report.state) == count
    assert {name.split("/")[1] for name in report.unused if name.startswith("batch_stats/")} == {"projector"}
    assert f"{len(report.loaded)} parameters loaded, {count} arrays of batch_stats" in str(report)
    assert "batch_stats/projector" in str(report)

    renamed = {collection: {"trunk": tree["encoder"]} for collection, tree in resnet_shapes().items()}
    found, [report] = init_from(renamed, {"trunk": f"{folder}::encoder"})
    np.testing.assert_array_equal(found["batch_stats/trunk/norm1/var"], statistics["norm1"]["var"])
    assert len(report.state) == count and not report.missing and not report.unused


def test_statistics_that_a_source_lacks_are_missing_and_those_of_another_shape_refused(convolutional):
    folder, *_ = convolutional
    target = resnet_shapes()
    more = {"encoder": {**target["batch_stats"]["encoder"], "norm9": {"mean": np.zeros(3), "var": np.zeros(3)}}}
    _, [report] = init_from({**target, "batch_stats": more}, {"encoder": str(folder)})
    assert report.missing == ("batch_stats/encoder/norm9/mean", "batch_stats/encoder/norm9/var")
    _, [report] = init_from({"params": target["params"]}, {"encoder": str(folder)})
    assert not report.state and all(name.startswith("batch_stats/encoder/") for name in report.unused)
    other = {"encoder": {**target["batch_stats"]["encoder"], "norm1": {"mean": np.zeros(3), "var": np.zeros(3)}}}
    with pytest.raises(UserError, match=r"batch_stats/encoder/norm1/mean of shape \(8,\), the model needs \(3,\)"):
        init_from({**target, "batch_stats": other}, str(folder))


@pytest.mark.long
@pytest.mark.parametrize("sources", ["{}", {"encoder": "{}"}])
def test_a_resnet_is_fine_tuned_from_the_statistics_of_its_source(convolutional, tmp_path, sources):
    folder, params, state = convolutional
    source = str(folder) if isinstance(sources, str) else {"encoder": str(folder)}
    experiment = build_experiment(tiny_config() | {"model": RESNET, "init_from": source, "steps": 3, "evals": {}})
    run = open_run(experiment, epath.Path(tmp_path), jax.devices()[:1])
    try:
        jax.tree.map(np.testing.assert_array_equal, run.state["params"]["encoder"], params["encoder"])
        now, expected = run.state["model_state"]["batch_stats"], {"encoder": state["batch_stats"]["encoder"]}
        jax.tree.map(np.testing.assert_array_equal, now, expected)
    finally:
        run.close()
