"""Configs: arguments, overrides, unread keys, and what a resumed run may change."""

import pytest

from tests.tiny import tiny_config, tiny_experiment, tiny_run
from vit_jax import UserError
from vit_jax.training.config import differences, load_config, override, parse_arg, run_config


def test_arguments_are_typed_by_their_defaults():
    arg = parse_arg("res=384,smoke,lr=3,name=b/16", res=224, smoke=False, lr=0.1, name="")
    assert (arg.res, arg.smoke, arg.lr, arg.name) == (384, True, 3.0, "b/16")
    assert isinstance(arg.lr, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [("rse=384", "Did you mean 'res'"), ("res=big", "a whole number"), ("res=2.5", "a whole number"),
     ("smoke=3", "true or false"), ("res", "a whole number")],
)  # fmt: skip
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_arg(text, res=224, smoke=False)


def test_overrides():
    config = override(
        {"a": {"x": 1, "y": 2.0, "z": None, "t": [1, 2]}, "b": "s"},
        {"a.x": "5", "a.y": "3", "a.z": "(1, 2)", "a.t": "[3]", "b": "7", "c.d": "new", "a.n": "none"},
    )
    assert config == {"a": {"x": 5, "y": 3.0, "z": [1, 2], "t": [3], "n": None}, "b": "7", "c": {"d": "new"}}
    assert isinstance(config["a"]["y"], float)


def test_another_name_drops_the_arguments_of_the_old_one():
    config = override(tiny_config(), {"data.eval.root": "photos", "data.eval.name": "folder"})
    assert config["data"]["eval"] == {"name": "folder", "root": "photos"}
    for keys in (("name", "trunk.name"), ("trunk.name", "name")):
        changes = {f"model.{key}": {"name": "sam", "trunk.name": "mixer"}[key] for key in keys}
        model = override(tiny_config(), {"model.trunk.variant": "s/8", **changes})["model"]
        assert model == {"name": "sam", "trunk": {"name": "mixer", "variant": "s/8"}}, keys


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optm.learning_rate", "1", "'config.optm'. Did you mean 'optim'"),
        ("model.variant", "mu/4x", "There is no ViT 'mu/4x'"),
        ("model.pooling", "maen", "Did you mean 'mean'"),
        ("model.drop_out_rate", "0.1", "'config.model.drop_out_rate'. Did you mean 'dropout_rate'"),
        ("model.name", "vitt", "There is no model named 'vitt'"),
        ("model.name", "../vit", "There is no model named '../vit'"),
        ("task.name", "clasify", "Did you mean 'classify'"),
        ("task.objective", "softmx", "Did you mean 'softmax'"),
        ("data.train.name", "digit", "Did you mean 'digits'"),
        ("data.train.splitt", "test", "'config.data.train.splitt'. Did you mean 'split'"),
        ("data.transform.crop", "inceptoin", "Did you mean 'inception'"),
        ("data.imagesize", "8", "Did you mean 'image_size'"),
        ("data.image_size", "-8", "Give \\[height, width\\]"),
        ("data.preprocess.resize", "squish", "Did you mean 'squash'"),
        ("evals.val.name", "clasification", "Did you mean 'classification'"),
        ("evals.val", "5", "section"),
        ("steps", "0", "at least 1"),
        ("steps", "many", "whole number"),
        ("ema_decay", "1.5", "at least 0 and below 1"),
        ("data", "none", "config.data is None. It must be a section"),
        (
            "task.label_smoothing",
            "2",
            "config.task.label_smoothing is 2. It must be a number of at least 0 and below 1",
        ),
        ("model.depth", "0", "config.model.depth is 0. It must be a whole number of at least 1 or none"),
        ("model.mlp_dim", "0", "config.model.mlp_dim is 0"),
        ("model.num_heads", "0", "config.model.num_heads is 0"),
        ("model.width", "-64", "config.model.width is -64"),
        ("model.width", "1e400", "config.model.width is inf"),
        ("model.dropout_rate", "1.0", "config.model.dropout_rate is 1.0"),
        ("model.scan", "3", "config.model.scan is 3. It must be true or false"),
        ("model.dtype", "float16", "config.model.dtype is 'float16'. Did you mean 'bfloat16'"),
        ("batch_size", "0", "config.batch_size is 0. It must be a whole number of at least 1"),
        ("seed", "-1", "config.seed is -1"),
        ("seed", "4294967296", "config.seed is 4294967296. It must be from 0 to below 2\\^32"),
        ("data.num_threads", "-1", "config.data.num_threads is -1"),
        ("data.train.per_class", "0", "config.data.train.per_class is 0"),
        ("gradient_norms", "1", "config.gradient_norms is .*true or false"),
    ],
)
def test_bad_values_get_a_sentence(key, value, message):
    with pytest.raises(UserError, match=message):
        tiny_experiment(**{key.replace(".", "__"): value})


def test_missing_key_is_named():
    with pytest.raises(UserError, match="'config.steps' is missing"):
        run_config({k: v for k, v in tiny_config().items() if k != "steps"})


def test_durations_in_epochs_and_examples():
    """60 training images in batches of 16 make 3.75 steps an epoch."""
    changes = {"steps__epochs": 10, "eval_every__epochs": 1, "log_every__examples": 32, "checkpoint__every__epochs": 2}
    changes |= {"optim__schedule__warmup_steps__epochs": 0.5, "stop_at__steps": 9}
    experiment = tiny_experiment(**changes)
    config = experiment.config
    assert (config.steps, config.eval_every, config.log_every, config.stop_at) == (38, 4, 2, 9)
    assert config.checkpoint == {"every": 8} and config.optim["schedule"]["warmup_steps"] == 2
    assert experiment.values["steps"] == {"epochs": 10}
    assert run_config(experiment.values).steps == {"epochs": 10}


def test_durations_in_groups():
    groups = [{"match": ".*", "name": "sgd", "learning_rate": 1.0, "schedule": {"warmup_steps": {"examples": 160}}},
              {"match": "x", "learning_rate_multipliers": [[".*", 2.0]]}]  # fmt: skip
    config = run_config({**tiny_config(), "optim": {"groups": groups}}).in_steps(60)
    assert config.optim["groups"][0]["schedule"] == {"warmup_steps": 10}
    assert config.optim["groups"][1] == groups[1]
    # A group that waits counts its own updates, of which each is four batches of 16 on.
    for turns, expected in (({"every": 4}, 2), ({"every": 4, "schedule_counts": "steps"}, 10)):
        values = {**tiny_config(), "optim": {"groups": [{**groups[0], **turns}, groups[1]]}}
        found = run_config(values).in_steps(60).optim["groups"][0]
        assert found["schedule"]["warmup_steps"] == expected and found["every"] == 4
    later = [{**groups[0], "every": 2, "from_step": {"epochs": 2}}, groups[1]]
    found = run_config({**tiny_config(), "optim": {"groups": later}}).in_steps(64).optim["groups"]
    assert found[0]["from_step"] == 8, "of the run, not of the group's own updates"
    with pytest.raises(UserError, match="groups\\[0\\].every is {'epochs': 1}"):
        run_config({**tiny_config(), "optim": {"groups": [{"every": {"epochs": 1}}]}}).in_steps(60)


def test_durations_in_a_task():
    task = {"name": "classify", "teacher": {"ratio": 2.0, "after": {"epochs": 2}}}
    config = run_config({**tiny_config(), "task": task}).in_steps(80)
    assert config.task == {"name": "classify", "teacher": {"ratio": 2.0, "after": 10}}
    # Whatever ends in '_steps' is one, of any task.
    task = {"name": "dvae", "tau_steps": {"examples": 160}, "kl_steps": 7, "others": {"tau_stepped": {"epochs": 1}}}
    config = run_config({**tiny_config(), "task": task}).in_steps(80)
    assert config.task == {**task, "tau_steps": 10}


def test_a_duration_is_replaced_whole():
    assert override({"steps": 9}, {"steps.epochs": "1.5"}) == {"steps": {"epochs": 1.5}}
    assert override({"steps": {"epochs": 3}}, {"steps.examples": "1e6"}) == {"steps": {"examples": 1e6}}
    assert override({"steps": {"epochs": 3}}, {"steps": "7"}) == {"steps": 7}
    with pytest.raises(UserError, match="config.seed is a value"):
        override({"seed": 3}, {"seed.value": "2"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps__epoch", "3", "Set --config.steps=VALUE itself"),
        ("eval_every__epoch", "3", "cannot be counted in 'epoch'. Did you mean 'epochs'"),
        ("eval_every__epochs", "0", "config.eval_every.epochs is 0. It must be a number above 0"),
        ("optim__schedule__warmup_steps__epochs", "many", "warmup_steps.epochs is 'many'"),
        ("optim__schedule__warmup_steps__epochs", "9", "34 steps is not shorter than the run of 6"),
        ("checkpoint__every__epochs", "-1", "config.checkpoint.every.epochs is -1"),
    ],
)
def test_bad_durations_get_a_sentence(tmp_path, key, value, message):
    with pytest.raises(UserError, match=message):
        tiny_run(tmp_path / "new", **{key: value})
    assert not (tmp_path / "new").exists()


def test_two_units_are_refused():
    with pytest.raises(UserError, match="config.steps is counted in epochs and examples"):
        run_config({**tiny_config(), "steps": {"epochs": 1, "examples": 2}})


def test_differences_ignore_length_logging_and_saving():
    changes = {"steps": 9, "log_every": 1, "checkpoint__every": 2, "data__num_threads": 0, "stop_at": 3}
    assert differences(tiny_config(**changes), tiny_config()) == []
    assert differences(tiny_config(seed=4, model__pooling="map"), tiny_config()) == ["model.pooling", "seed"]


def test_unknown_config_file():
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        load_config("digit")


def test_one_number_is_a_square_and_none_takes_an_evaluator_away():
    experiment = tiny_experiment(data__image_size="16", evals__val="none")
    assert experiment.metadata["image_size"] == [16, 16] and experiment.evaluators == {}
    assert tiny_experiment(evals="none").config.evals == {}
