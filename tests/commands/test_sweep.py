"""A sweep: its runs and their names, what they share, which of them are left, and how they are put in order."""

import csv
import json
import os
import signal
import subprocess

import jax
import pytest

from tests.processes import config_file
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.checkpoints.policy import Policy
from vit_jax.commands import sweep, sweep_parts
from vit_jax.commands.main import main
from vit_jax.commands.sweep_table import is_low
from vit_jax.errors import Preempted
from vit_jax.training.grid import axes_of, points_of
from vit_jax.training.open_run import compile_aloud

RATES = "optim.learning_rate=0.01,1e30"


def sweep_of(folder, *words, config=None):
    return main(["sweep", "--config", str(config or config_file(folder)), "--workdir", str(folder / "runs"), *words])


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run, and one of another seed with a rate that is far too high; what was compiled for the second."""
    folder, texts, missed = tmp_path_factory.mktemp("sweep"), [], []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_misses":
            missed.append(len(texts))

    def noting(lowered, what):
        texts.append(lowered.as_text())
        return compile_aloud(lowered, what)

    jax.monitoring.register_event_listener(listen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit_jax.training.open_run.compile_aloud", noting)
        status = sweep_of(folder, "--grid", RATES, "seed=0,1", "--config.steps=4", "--only", "1/3")
    jax.monitoring.unregister_event_listener(listen)
    return folder, status, texts, missed


@pytest.mark.long
def test_runs_that_differ_in_rate_and_seed_compile_once(real):
    _, _, texts, missed = real
    assert len(texts) == 2 and texts[0] == texts[1]
    assert 2 not in missed, "of the second run something was compiled from its step on"


@pytest.mark.long
def test_a_run_that_fails_does_not_stop_the_others(real, capsys):
    folder, status, *_ = real
    runs = folder / "runs"
    assert status == 2
    assert {path.parent.name for path in runs.glob("*/config.json")} == {
        "learning_rate=0.01,seed=0", "learning_rate=1e+30,seed=1"
    }  # fmt: skip
    assert [path.parent.name for path in runs.glob("*/summary.json")] == ["learning_rate=0.01,seed=0"]
    # Again, without what failed: nothing is left to do.
    assert sweep_of(folder, "--grid", "optim.learning_rate=0.01", "seed=0", "--config.steps=4") == 0
    out, err = capsys.readouterr()
    assert err.count("is done") == 1 and "Best by val/accuracy: learning_rate=0.01" in out
    assert (runs / "sweep.png").read_bytes().startswith(b"\x89PNG")
    with (runs / "sweep.csv").open() as file:
        (row,) = csv.DictReader(file)
    summary = json.loads((runs / "learning_rate=0.01,seed=0" / "summary.json").read_text())
    assert (row["learning_rate"], row["seed"], row["step"]) == ("0.01", "0", "4")
    assert float(row["val/accuracy"]) == summary["val/accuracy"]


def pretend(monkeypatch, accuracy, stop=lambda config: None, metric="val/accuracy"):
    """Runs that take no time. Returns the configs that were trained.

    Args:
        accuracy: of a config.
        stop: raises where a run of a config does not come to its end.
        metric: what `accuracy` gives.
    """
    trained = []

    def train(workdir, config):
        trained.append(config)
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps(config))
        stop(config)
        row = {"step": 6, "train/loss": 1.0, metric: accuracy(config), "val/loss": 1 - accuracy(config)}
        (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (workdir / "summary.json").write_text(json.dumps({"step": 6}))

    monkeypatch.setattr(sweep, "_train", train)
    return trained


def rate_of(config):
    return config["optim"]["learning_rate"]


def rows_of(text):
    return [line.split()[0] for line in text.splitlines() if line.startswith("learning_rate=")]


@pytest.mark.long
def test_the_best_mean_over_seeds_is_first(tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, lambda c: {0.1: 0.5, 0.2: 0.8, 0.3: 0.7}[rate_of(c)] + 0.01 * c["seed"])
    grid = ["--grid", "optim.learning_rate=0.1,0.2,0.3", "seed=0,1"]
    assert sweep_of(tmp_path, *grid) == 0
    out = capsys.readouterr().out
    assert rows_of(out)[:3] == [f"learning_rate={r}" for r in (0.2, 0.3, 0.1)]
    assert "0.805 ± 0.0071" in out and "Best by val/accuracy: learning_rate=0.2" in out
    assert sweep_of(tmp_path, *grid, "--metric", "val/loss", "--mode", "max") == 0
    assert rows_of(capsys.readouterr().out)[0] == "learning_rate=0.1"
    assert sweep_of(tmp_path, *grid, "--metric", "val/loss") == 0
    assert rows_of(capsys.readouterr().out)[0] == "learning_rate=0.2"
    assert sweep_of(tmp_path, *grid, "--metric", "val/acuracy") == 2
    assert "Did you mean 'val/accuracy'" in capsys.readouterr().err


@pytest.mark.long
def test_what_survived_of_a_value_is_not_ranked_above_what_is_whole(tmp_path, monkeypatch, capsys):
    """Of one rate a seed diverges after an evaluation, of another it ends with NaN, of a third none comes to its end."""
    scores = {0.1: 0.5, 0.2: 0.9, 0.3: 0.8, 0.4: 0.7}

    def accuracy(config):
        return float("nan") if (rate_of(config), config["seed"]) == (0.3, 1) else scores[rate_of(config)]

    pretend(monkeypatch, accuracy)
    train = sweep._train

    def diverging(workdir, config):
        train(workdir, config)
        if rate_of(config) == 0.4 or (rate_of(config), config["seed"]) == (0.2, 1):
            (workdir / "summary.json").unlink()
            raise UserError("The loss is not finite")

    monkeypatch.setattr(sweep, "_train", diverging)
    assert sweep_of(tmp_path, "--grid", "optim.learning_rate=0.4,0.3,0.2,0.1", "seed=0,1") == 2
    out, err = capsys.readouterr()
    rows = [line for line in out.splitlines() if line.startswith("learning_rate=")][:4]
    assert [row.split()[0] for row in rows] == [f"learning_rate={rate}" for rate in (0.1, 0.2, 0.3, 0.4)]
    counts = [" 2 ", " 1 of 2 ", " 1 of 2 ", " 0 of 2 "]
    assert all(count in row for row, count in zip(rows, counts, strict=True))
    assert "Best by val/accuracy: learning_rate=0.1" in out
    for rate, count in ((0.2, 1), (0.3, 1), (0.4, 0)):
        assert f"learning_rate={rate}: {count} of 2 runs came to their end with a finite val/accuracy" in err
    assert sweep_of(tmp_path, "--grid", "optim.learning_rate=0.4", "seed=0,1") == 2
    assert "came to its end with a finite val/accuracy" in capsys.readouterr().err


@pytest.mark.long
def test_ctrl_c_ends_it_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    told = [True]

    def stop(config):
        if config["seed"] == 1 and told:
            told.pop()
            raise KeyboardInterrupt

    trained = pretend(monkeypatch, lambda c: 0.5, stop)
    assert sweep_of(tmp_path, "--grid", "seed=0,1,2") == 130
    assert [c["seed"] for c in trained] == [0, 1]
    trained.clear()
    assert sweep_of(tmp_path, "--grid", "seed=0,1,2,3") == 0
    assert [c["seed"] for c in trained] == [1, 2, 3]
    trained.clear()
    assert sweep_of(tmp_path, "--grid", "seed=0,1", "--config.steps=9") == 0  # longer than they were
    assert [c["steps"] for c in trained] == [9, 9]


def test_parts_of_a_grid_are_all_of_it(tmp_path, monkeypatch, capsys):
    trained = pretend(monkeypatch, lambda c: 0.5)
    for part in ("1/2", "2/2"):
        assert sweep_of(tmp_path, "--grid", "seed=0,1,2,3,4", "--only", part) == 0
    assert [c["seed"] for c in trained] == [0, 2, 4, 1, 3]
    assert capsys.readouterr().out == ""


@pytest.mark.long
def test_development_chooses_and_the_test_set_is_seen_once(tmp_path, monkeypatch, capsys):
    trained = pretend(monkeypatch, lambda c: {0.1: 0.5, 0.2: 0.8}[rate_of(c)])
    base = tiny_config(eval_every=2, evals__own__name="classification", evals__own__source__name="digits")
    config = tmp_path / "base.py"
    config.write_text(f"def get_config(arg=''):\n    return {base!r}\n")
    grid = ["--grid", "optim.learning_rate=0.1,0.2", "seed=0,1", "--develop", "0.25"]
    assert sweep_of(tmp_path, *grid, config=config) == 0
    develop, final = trained[:4], trained[4:]
    for tried in develop:
        assert {key: (of["name"], of["part"]) for key, of in tried["data"].items() if key in ("train", "eval")} == {
            "train": ("held_out", "rest"), "eval": ("held_out", "held")
        }  # fmt: skip
        assert tried["data"]["eval"]["source"] == base["data"]["train"] and set(tried["evals"]) == {"val"}
    assert [(rate_of(c), c["seed"]) for c in final] == [(0.2, 0), (0.2, 1)]
    for one in final:
        assert one["data"] == base["data"] and one["eval_every"] is None and set(one["evals"]) == {"val", "own"}
    assert {path.name for path in (tmp_path / "runs" / "best").iterdir() if path.is_dir()} == {
        "learning_rate=0.2,seed=0", "learning_rate=0.2,seed=1"
    }  # fmt: skip
    trained.clear()
    assert sweep_of(tmp_path, *grid, config=config) == 0 and not trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "optim.lerning_rate=1,2"], "Unknown key 'config.optim.lerning_rate'. Did you mean 'learning_rate'"),
        (["--grid", "optin.learning_rate=1,2"], "Unknown key 'config.optin'. Did you mean 'optim'"),
        (["--grid", "seed"], "--grid has 'seed'. Write KEY=VALUE"),
        (["--grid", "seed=0,,1"], "--grid has 'seed=0,,1'"),
        (["--grid", "seed=0,1,0"], "the run seed=0 twice"),
        (["--grid", "seed=0", "config.seed=1"], "--grid has 'seed' twice"),
        (["--grid", "seed=0", "--grid", "seed=1"], "--grid has 'seed' twice"),
        (["--grid", "seed=0,x"], "config.seed is 'x'. It must be a whole number"),
        (["--grid", "optim=1"], "config.optim is a section"),
        (["--grid", "seed=0", "--only", "3/2"], "--only is '3/2'. Write I/N"),
        (["--grid", "seed=0", "--develop", "1.5"], "--develop is 1.5"),
        (["--grid", "seed=0", "--devices-per-run", "0"], "--devices-per-run is 0"),
        (["--grid", "seed=0", "--mode", "maximum"], "Did you mean 'max'"),
    ],
)
def test_mistakes_get_a_sentence_before_anything_runs(tmp_path, capsys, words, message):
    assert sweep_of(tmp_path, *words) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and not list(tmp_path.glob("runs/*/config.json"))


def test_what_stops_a_run_early_is_for_development_alone():
    """Its metric is not measured on the way when the best are trained on everything."""
    waiting = {"best": "val/accuracy", "best_mode": "max", "stop_after": 2, "min_delta": 0.01}
    final = sweep.retrained(tiny_config() | {"checkpoint": {"every": 2, "keep": 1, **waiting}})
    assert Policy(**final["checkpoint"]) == Policy(every=2, keep=1)


def test_what_is_best_low_by_its_name():
    low = [
        "val/loss",
        "s/kid(network@0123)",
        "r/lpips",
        "b/per_pixel",
        "c/mce",
        "r/perceptual(a/loss@1)",
        "t/bits_per_byte",
    ]
    high = ["val/accuracy", "s/score(my/fid)", "r/psnr", "r/better", "val/f1"]
    assert [is_low(name) for name in low + high] == [True] * len(low) + [False] * len(high)
    assert is_low("codes/perplexity", "perplexity") and is_low("codes/per_pixel", "bits")
    assert not is_low("codes/perplexity", "codebook") and not is_low("codes/bits", "codebook")


def test_an_evenly_used_codebook_is_best(tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, lambda c: 10 * rate_of(c), metric="codes/perplexity")
    base = tiny_config(evals__codes__name="codebook", evals__codes__vocab_size=8)
    config = tmp_path / "base.py"
    config.write_text(f"def get_config(arg=''):\n    return {base!r}\n")
    assert sweep_of(tmp_path, "--grid", "optim.learning_rate=0.1,0.2", config=config) == 0
    assert "Best by codes/perplexity: learning_rate=0.2" in capsys.readouterr().out


def test_names_are_as_short_as_they_can_be():
    base = tiny_config()
    grid = ["optim.name=sgd,adamw", "model.name=vit", "data.image_size=[8,8],[4,8]", "config.optim.learning_rate=1e-3"]
    axes = axes_of(grid)
    assert axes["data.image_size"] == ["[8,8]", "[4,8]"]
    names = [point.name for point in points_of(base, axes)]
    assert names[1] == "optim.name=sgd,model.name=vit,image_size=-4-8-,learning_rate=0.001" and len(names) == 4
    with pytest.raises(UserError, match="too long"):
        points_of(base, {"model.variant": ["x" * 300]})


def test_the_script_for_slurm_runs_each_task_and_queues_it_again(tmp_path):
    words = ["--grid", "seed=0,1,2", "optim.learning_rate=0.1", "--config.steps=4", "--develop", "0.1"]
    assert sweep_of(tmp_path, *words, "--slurm", str(tmp_path / "array.sbatch")) == 0
    script = (tmp_path / "array.sbatch").read_text()
    assert "--array=1-3\n" in script
    for name, status in (("srun", 75), ("scontrol", 0)):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/calls"\nexit {status}\n')
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_ARRAY_JOB_ID": "77",
        "PYTHON": "py",
    }
    ended = subprocess.run(["bash", tmp_path / "array.sbatch"], env=environment, check=False, timeout=60)
    ran, queued = (tmp_path / "calls").read_text().splitlines()
    assert ended.returncode == 75 and queued == "scontrol requeue 77_2"
    assert ran == (
        f"srun --ntasks=1 py -m vit_jax sweep --config {tmp_path}/config.py --config.steps=4 --grid seed=0,1,2"
        f" optim.learning_rate=0.1 --workdir {tmp_path}/runs --develop 0.1 --only 2/3"
    )


def test_each_part_sees_devices_of_its_own_and_a_signal_reaches_it_once(tmp_path, monkeypatch, capfd):
    """Parts that only say what they see, and end as a run that was told to stop does."""
    monkeypatch.setattr(sweep_parts, "_asked", lambda: ("gpu", 5))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1,0")
    assert list(sweep_parts._shares(2)) == [{"CUDA_VISIBLE_DEVICES": "7,5"}, {"CUDA_VISIBLE_DEVICES": "3,1"}]
    with pytest.raises(UserError, match="--devices-per-run is 6, and there are 5"):
        list(sweep_parts._shares(6))
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\ntrap \'echo "told" >&2; exit 130\' INT\necho "$CUDA_VISIBLE_DEVICES ${@: -2}" >&2\n'
        f"if [[ ${{@: -1}} == 1/2 ]]; then touch {tmp_path}/there; else until [[ -e {tmp_path}/there ]]; do sleep 0.1;"
        f" done; kill -INT {os.getpid()}; fi\nfor i in $(seq 200); do sleep 0.1; done\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sweep_parts.sys, "executable", str(python))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        sweep_parts.run_beside(["--grid", "seed=0,1,2"], 3, 2)
    assert signal.getsignal(signal.SIGINT) is before
    lines = sorted(capfd.readouterr().err.splitlines())
    assert lines == ["[1/2] 7,5 --only 1/2", "[1/2] told", "[2/2] 3,1 --only 2/2", "[2/2] told"]


def test_a_signal_reaches_a_part_that_is_just_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_parts, "_asked", lambda: ("gpu", 2))
    python, started = tmp_path / "python", []
    python.write_text("#!/bin/bash\nexec sleep 20\n")
    python.chmod(0o755)
    monkeypatch.setattr(sweep_parts.sys, "executable", str(python))

    class Starting(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            if len(started) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(sweep_parts.subprocess, "Popen", Starting)
    with pytest.raises(Preempted):
        sweep_parts.run_beside(["--grid", "seed=0,1,2"], 3, 1)
    assert [part.returncode for part in started] == [-signal.SIGTERM] * 2


@pytest.mark.long
def test_runs_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in this process
    few = ("--config.steps=4", "--config.model.depth=1")
    assert sweep_of(tmp_path, "--grid", "seed=0,1", *few, "--devices-per-run", "1") == 0
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 2
