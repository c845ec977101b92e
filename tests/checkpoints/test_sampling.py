"""Samples by number: the same image for the same number, whatever is drawn beside it."""

import json
import shutil

import jax
import numpy as np
import pytest

import vit_jax
from tests import toy_generator
from vit_jax import UserError
from vit_jax.checkpoints import sampling
from vit_jax.commands.main import main
from vit_jax.data.decode import decode
from vit_jax.data.drawing import mosaic
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.sharding import batch_sharding, make_mesh

GUIDED = {"guidance": 0.5, "temperature": 0.5}


@pytest.fixture(scope="module", autouse=True)
def toys():
    with toy_generator.toys():
        yield


@pytest.fixture(scope="module")
def workdir(toys):
    return toy_generator.workdir()


@pytest.fixture(scope="module")
def loaded(workdir):
    return vit_jax.load(workdir)


def same(found, wanted):
    np.testing.assert_array_equal(found.images, wanted.images)
    jax.tree.map(np.testing.assert_array_equal, found.conditions, wanted.conditions)


@pytest.mark.long
def test_an_image_is_a_function_of_its_number(loaded):
    whole = loaded.sample(70, **GUIDED)
    assert whole.images.shape == (70, 8, 8, 3) and whole.images.dtype == np.uint8
    np.testing.assert_array_equal(whole.conditions["label"], np.arange(70) % 2)
    assert len(np.unique(whole.images.reshape(70, -1), axis=0)) == 70
    same(loaded.sample(9, batch_size=1, **GUIDED), whole[:9])
    same(loaded.sample(70, batch_size=7, **GUIDED), whole)
    # Any numbers, in any order.
    settings = sampling.settings_of(loaded.task, GUIDED)
    [part] = sampling.sample(loaded.task, loaded.variables, [66, 3], settings=settings)
    same(part, sampling.Samples.joined([whole[66:67], whole[3:4]]))
    assert not np.array_equal(loaded.sample(9, seed=1, **GUIDED).images, whole.images[:9])


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_eight_devices_draw_what_one_does(loaded, batch_size):
    rows = batch_sharding(make_mesh({}))
    same(loaded.sample(19, batch_size=batch_size, rows=rows, **GUIDED), loaded.sample(19, **GUIDED))


@pytest.mark.long
def test_prompts_take_turns(loaded):
    found = loaded.sample(5, prompts=["1", "1", "0"])
    np.testing.assert_array_equal(found.conditions["label"], [1, 1, 0, 1, 1])
    assert found.images[0].mean() > 150 > 100 > found.images[2].mean()


def test_one_compilation_for_all_batches_and_seeds(loaded):
    compiled = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(loaded.task), "sample", counted(type(loaded.task).sample, compiled))
        for seed in (0, 1):
            loaded.sample(21, batch_size=7, seed=seed, temperature=0.75)
    assert len(compiled) == 1


def counted(function, calls):
    def counting(*args):
        calls.append(args)
        return function(*args)

    return counting


@pytest.mark.long
def test_evaluators_share_what_is_drawn(workdir, tmp_path, loaded):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = rows[-1]
    wanted = loaded.sample(70, seed=7, guidance=0.5)
    bright = wanted.images[wanted.conditions["label"] == 1].mean()
    assert logged["dark/mean"] < 100 < 150 < logged["bright/mean"] == pytest.approx(bright, rel=1e-5)
    assert (logged["dark/images"], logged["bright/images"]) == (40, 70)

    numbers = []
    values = toy_generator.config(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        from vit_jax.training import evaluation

        def noted(task, variables, asked, **how):
            numbers.append(list(asked))
            return sampling.sample(task, variables, asked, **how)

        patch.setattr(evaluation, "sample", noted)
        found = evaluation.evaluate_loaded(loaded, values)
    assert numbers == [list(range(40)), list(range(40, 70)), list(range(6))]
    assert found["bright/mean"] == pytest.approx(logged["bright/mean"], rel=1e-5)


@pytest.mark.long
def test_a_run_keeps_a_sheet_of_each_evaluation(workdir, loaded, tmp_path, capsys):
    grids = sorted((workdir / "pictures" / "samples_grid").iterdir())
    assert [path.name for path in grids] == ["00000015.png", "00000030.png"]
    early, late = (decode(path) for path in grids)
    images = loaded.sample(6, temperature=0.5).images
    np.testing.assert_array_equal(late, mosaic(images, least=32))
    assert early.shape == late.shape and not np.array_equal(early, late)
    assert max(grid[:34, :34].mean() for grid in (early, late)) < 100 < early[:34, 36:68].mean()  # dark, bright
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["samples/images"] == 6
    assert logged[-1]["samples/spread"] == pytest.approx(images.std(0).mean(), rel=1e-3)

    # The report shows them side by side, and what a link leads to is not shown.
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert "samples grid at step 15, 30." in (tmp_path / "page.html").read_text()
    shutil.rmtree(run / "pictures" / "samples_grid")
    (run / "pictures" / "samples_grid").symlink_to(workdir / "pictures" / "samples_grid")
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert "samples grid" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "task, asked, message",
    [
        (
            "toy_generator",
            {"guidence": 1.0},
            "'s' would fail: Unknown key 'sampling.guidence'. Did you mean 'guidance'",
        ),
        ("toy_generator", {"guidance": -1.0}, "'s' would fail: sampling.guidance is -1.0. It must be a number of at"),
        ("toy_generator", {"steps": 65}, "'s' would fail: steps is 65, and an image has 64 places"),
        ("classify", {}, "'s' would fail: The task 'classify' generates nothing. Use a checkpoint of a generator"),
    ],
)
def test_a_task_that_cannot_be_sampled_so_is_found_before_training(task, asked, message, tmp_path):
    values = toy_generator.config(tmp_path, {"s": {"name": "toy_sampled", "count": 2, "label": 0, **asked}})
    model = {"name": "vit", "variant": "mu/4", "pooling": "mean"} if task == "classify" else None
    values |= {"task": {"name": task}, "model": model}
    with pytest.raises(UserError, match=message):
        train(build_experiment(values), tmp_path / "run", jax.devices()[:1])
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_drawn_is_one_sentence(loaded):
    for wrong, message in (
        ({"count": 0}, "count is 0. Ask for at least 1"),
        ({"count": 1, "seed": -1}, "The seed is -1"),
        ({"count": 1, "batch_size": 0}, "batch_size is 0"),
        ({"count": 1, "prompts": ["2"]}, "There is no class '2'"),
        ({"count": 1, "prompts": "10"}, "There is no class '10'"),
        ({"count": 1, "top_k": 3}, "Unknown key 'sampling.top_k'"),
        ({"count": 1, "steps": 0}, "sampling.steps is 0. It must be a whole number of at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            loaded.sample(**wrong)
    with pytest.raises(UserError, match="The seed is 4294967296. It must be from 0 to below 2"):
        loaded.outputs({}, "samples", seed=2**32)
