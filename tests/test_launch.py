"""The launch scripts: checked by their linters, and run against commands that only pretend."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = ("tpu_vm.sh", "slurm.sbatch")
ROOT = LAUNCH.parent


def linter(name):
    """A program, from the environment that runs the tests or the system."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script):
    subprocess.run([linter("shellcheck"), LAUNCH / script], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_parse_it(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)


def test_every_script_is_in_the_readme_and_ends_in_the_same_command():
    readme = (LAUNCH / "README.md").read_text()
    files = {path.name for path in LAUNCH.iterdir()} - {"README.md"}
    assert files == {*SCRIPTS, "gke_jobset.yaml", "skypilot.yaml"}
    assert all(f"launch/{name}" in readme for name in files)
    for name in files - {"gke_jobset.yaml"}:
        assert len(re.findall(r"-m vit_jax train", (LAUNCH / name).read_text())) == 1
    assert jobset_pod()["containers"][0]["command"] == ["python", "-m", "vit_jax", "train"]


def fake(folder, name, body):
    """A command on the PATH that writes down how it was called and then does as `body` says."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"{folder}/calls"\n{body}\n')
    path.chmod(0o755)


def launch(folder, script, *arguments, **environment):
    path = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", LAUNCH / script, *arguments], capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
        env=os.environ | path | environment,
    )  # fmt: skip
    calls = folder / "calls"
    return result, calls.read_text().splitlines() if calls.exists() else []


TRAIN = ["--config", "digits", "--workdir", "gs://bucket/a b"]


@pytest.mark.parametrize(
    ("status", "restarts", "requeued", "returned"),
    [
        (0, 0, False, 0),
        (2, 0, False, 2),
        (130, 0, False, 130),
        (75, 0, True, 0),
        (137, 3, True, 0),
        (75, 100, False, 75),
    ],
)
def test_slurm_queues_again_what_was_preempted_or_crashed(tmp_path, status, restarts, requeued, returned):
    fake(tmp_path, "srun", f"exit {status}")
    fake(tmp_path, "scontrol", "")
    result, calls = launch(tmp_path, "slurm.sbatch", *TRAIN, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restarts))
    assert result.returncode == returned, result.stderr
    train = "srun --kill-on-bad-exit=1 python -m vit_jax train --config digits --workdir gs://bucket/a b"
    assert calls == [train, *(["scontrol requeue 7"] if requeued else [])]


def test_slurm_options():
    """Those that sbatch knows, and time to save."""
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE))
    assert len(options) == (LAUNCH / "slurm.sbatch").read_text().count("\n#SBATCH ")
    assert options["signal"] == "TERM@120" and "requeue" in options and options["open-mode"] == "append"


def test_slurm_takes_it():
    """Where there is a controller to ask."""
    sbatch = linter("sbatch")
    if subprocess.run([linter("sinfo")], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm controller answers here")
    small = ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1"]
    subprocess.run([sbatch, "--test-only", *small, LAUNCH / "slurm.sbatch", *TRAIN], check=True)


# The slice as gcloud shows it: it is queued, there, preempted in the first run, and there again.
GCLOUD = r"""
here=$(dirname "$(dirname "$0")")
case "$*" in
  *"queued-resources describe"*)
    if [[ -e $here/slice ]]; then cat "$here/slice"; if grep -q WAITING "$here/slice"; then echo ACTIVE >"$here/slice"; fi
    else exit 1; fi ;;
  *"queued-resources create"*) echo WAITING_FOR_RESOURCES >"$here/slice" ;;
  *"queued-resources delete"*) rm "$here/slice" ;;
  *"vit_jax train"*)
    status=$(head -n 1 "$here/statuses"); sed -i 1d "$here/statuses"
    echo "something else"; echo "vit_jax exit status $status"; echo "vit_jax exit status $status"
    if [[ $status == 143 ]]; then echo SUSPENDED >"$here/slice"; fi ;;
esac
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("statuses", "returned", "created", "deleted"),
    [
        ([0], 0, 1, 1),
        ([75, 0], 0, 1, 1),
        ([143, 75, 0], 0, 2, 2),
        ([2], 2, 1, 0),
        ([75] * 4, 1, 1, 0),
    ],
    ids=str,
)
def test_tpu_vm_goes_on_until_it_is_done(tmp_path, statuses, returned, created, deleted):
    fake(tmp_path, "gcloud", GCLOUD)
    (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"POLL": "0", "MAX_RESTARTS": "3", "TMPDIR": str(temporary)}
    result, calls = launch(tmp_path, "tpu_vm.sh", "run", "us-central1-a", "v5litepod-256", *TRAIN, **environment)
    assert result.returncode == returned, result.stdout + result.stderr
    assert sum("queued-resources create" in call for call in calls) == created
    assert sum("queued-resources delete" in call for call in calls) == deleted
    runs = [call for call in calls if "vit_jax train" in call]
    assert len(runs) == len(statuses)
    assert r"vit_jax train --config digits --workdir gs://bucket/a\ b;" in runs[0] and "--worker=all" in runs[0]
    [first, *_] = [call for call in calls if "create" in call]
    assert "--spot" in first and "--runtime-version=v2-alpha-tpuv5-lite" in first
    # The archive of the code has a name that no other run has, and nothing is left of it.
    [archive] = {Path(call.split("tpu-vm scp ")[1].split()[0]) for call in calls if "tpu-vm scp" in call}
    assert archive.parent == temporary and not list(temporary.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_arguments_a_script_says_how_it_is_used(tmp_path, script):
    result, calls = launch(tmp_path, script)
    assert result.returncode == 2 and result.stderr.startswith("usage: ") and calls == []


def test_tpu_vm_refuses_what_it_does_not_know(tmp_path):
    fake(tmp_path, "gcloud", "")
    result, calls = launch(tmp_path, "tpu_vm.sh", "run", "zone", "v3-8", *TRAIN)
    assert result.returncode == 2 and "'v3-8'" in result.stderr and calls == []


def jobset():
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def jobset_job():
    [replicated] = jobset()["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def jobset_pod():
    return jobset_job()["template"]["spec"]


# What the v1alpha2 schema of JobSet says about the fields that we use: the keys of a level, and their kinds.
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"metadata": dict, "spec": dict}}],
    },
}


def check(value, schema, where="jobset"):
    if isinstance(schema, type):
        assert isinstance(value, schema), where
    elif isinstance(schema, list):
        for i, item in enumerate(value):
            check(item, schema[0], f"{where}[{i}]")
    else:
        assert set(value) <= set(schema), where
        for key, item in value.items():
            check(item, schema[key], f"{where}.{key}")


def test_jobset():
    values = jobset()
    check(values, JOBSET)
    assert (values["apiVersion"], values["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [rule] = values["spec"]["failurePolicy"]["rules"]
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"]) and rule["action"] == "FailJobSet"
    job, pod = jobset_job(), jobset_pod()
    # A pod failure policy needs pods that are not started again in place, and names a container that there is.
    [on_two] = job["podFailurePolicy"]["rules"]
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0
    assert on_two["onExitCodes"] == {"containerName": pod["containers"][0]["name"], "operator": "In", "values": [2]}
    # 16x16 chips, so many on each host.
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert job["parallelism"] == job["completions"] == rows * columns // chips


def test_the_job_in_the_jobset_is_one_that_kubernetes_knows():
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": jobset_job()}
    validate.validate(job, validate.latest_version(), strict=True)


def test_skypilot(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert set(task) <= {"name", "num_nodes", "resources", "envs", "workdir", "setup", "run"}
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)
    # What a node runs, with the environment that SkyPilot gives it.
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    python.chmod(0o755)
    sky = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment = os.environ | task["envs"] | sky | {"HOME": str(tmp_path)}
    said = subprocess.run(["bash", "-c", task["run"]], capture_output=True, text=True, check=True, env=environment)
    assert ast.literal_eval(said.stdout) == [
        "-m", "vit_jax", "train", "--config", "vit_i21k", "--workdir", "gs://BUCKET/vit_i21k", "--coordinator",
        "10.0.0.1:8476", "--num-processes", "2", "--process-id", "1",
    ]  # fmt: skip


def test_the_flags_of_the_scripts_are_the_commands(capsys):
    from vit_jax.commands.main import main

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    known = capsys.readouterr().out
    used = json.dumps([(LAUNCH / "skypilot.yaml").read_text(), jobset()])
    for flag in ("--config", "--workdir", "--coordinator", "--num-processes", "--process-id"):
        assert flag in known and flag in used
