"""Every generator of images draws image i whatever is drawn beside it, and on however many devices."""

import jax
import numpy as np
import pytest

import vit_jax
from tests.test_systems import SYSTEMS
from tests.tiny import untrained
from vit_jax.commands.main import main
from vit_jax.naming import named_module
from vit_jax.tasks import Task
from vit_jax.training.sharding import batch_sharding, make_mesh

COUNT = 9
# Of these an image is asked for by a text.
PROMPTS = {"dalle": ["a red", "cat"]}
# Of steps there are fewer in these tiny systems than the usual ones.
SETTINGS = {name: {"steps": 3} for name in ("text_to_image", "inpaint", "depth", "controlnet")}
TEXTS = {"language_model", "translate"}


def generates(name):
    """Whether the module of a task has one with settings for samples: read off its class, nothing is built."""
    module = named_module("task", name)
    classes = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, Task)]
    return any(x.sampling is not None for x in classes if x.__module__ == module.__name__)


def pictures(task, settings):
    """Two of each kind without which a task draws nothing, for images in turn."""
    needed = {name: each for name, each in task.pictures(settings).items() if each.needed}
    drawn = {name: np.random.default_rng(3).uniform(0, 1, (2, *each.shape)) for name, each in needed.items()}
    return {name: x.round() if needed[name].kind == "mask" else x for name, x in drawn.items()}


GENERATORS = sorted(name for name in SYSTEMS.keys() - TEXTS if generates(name))
DEAR = {"depth", "hart", "inpaint", "mar", "var"}  # to compile, and that four times
EACH = [pytest.param(n, marks=pytest.mark.slow if n in DEAR else pytest.mark.long) for n in GENERATORS]


@pytest.mark.parametrize("name", EACH)
def test_an_image_does_not_depend_on_what_is_drawn_beside_it(name, tmp_path, capsys):
    checkpoint = untrained(tmp_path / "run", SYSTEMS[name], signed=name != "hart")  # whose head would overflow
    loaded, prompts = vit_jax.load(checkpoint), PROMPTS.get(name, ())
    settings = SETTINGS.get(name, {})
    asked = {"prompts": prompts, "pictures": pictures(loaded.task, loaded.task.sampling(**settings)), **settings}
    whole = loaded.sample(COUNT, **asked, seed=5, batch_size=64)
    assert whole.images.shape[0] == COUNT and len(np.unique(whole.images.reshape(COUNT, -1), axis=0)) > 1
    rows = batch_sharding(make_mesh({}))
    for how in ({"batch_size": 1}, {"batch_size": 7}, {"batch_size": 64, "rows": rows}):
        found = loaded.sample(COUNT, **asked, seed=5, **how)
        jax.tree.map(np.testing.assert_array_equal, found.conditions, whole.conditions)
        # Sums in another order may round a value the other way.
        assert np.abs(found.images.astype(int) - whole.images).max() <= 1, how

    # What it costs is said, and what it is not told is one sentence.
    costs = loaded.task.sampling_costs(loaded.task.sampling(**settings))
    assert set(costs) <= {"tokens", "passes", "cache_bytes"} and all(isinstance(x, int) for x in costs.values())
    argv = ["sample", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "grid.png")]
    argv += [flag for prompt in prompts for flag in ("--prompt", prompt)]
    capsys.readouterr()
    for wrong, message in ((["--zap", "1"], "has no --zap"), (["--count", "0"], "--count is 0")):
        assert main([*argv, *wrong]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
