"""`vit_jax push`: the folder is the model, the card is its run, and the hub gets it from whoever is logged in."""

import dataclasses
import json
import sys
import types

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, untrained
from vit_jax.checkpoints.load import load
from vit_jax.checkpoints.source import open_source
from vit_jax.commands import push
from vit_jax.commands.main import main
from vit_jax.commands.model_card import card, without_places
from vit_jax.errors import UserError
from vit_jax.training import experiment
from vit_jax.training.revision import revision

COMMIT = "0123456789abcdef0123456789abcdef01234567-dirty"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("push") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(experiment, "revision", lambda: COMMIT)
        untrained(path, tiny_config())
    step = next((path / "checkpoints").iterdir()).name
    rows = ({"step": int(step), "train/loss": 2.0}, {"step": int(step), "val/accuracy": 0.875, "val/<b>": 1.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Api:
    """What `upload` calls of the hub's client."""

    def __init__(self, refuses=None):
        self.calls, self.refuses = [], refuses

    def create_repo(self, *args, **kwargs):
        if self.refuses:
            raise self.refuses
        self.calls.append(("create", args, kwargs))

    def upload_folder(self, *, folder_path, **kwargs):
        self.calls.append(("upload", sorted(path.name for path in push.Path(folder_path).iterdir()), kwargs))


def header(card):
    """The card's YAML, which is a JSON value a line."""
    start, text, _ = card.split("---\n", 2)
    assert start == ""
    return {key: json.loads(value) for key, _, value in (line.partition(": ") for line in text.splitlines())}


def test_the_folder_is_the_model_and_the_card_its_run(workdir, tmp_path):
    folder = tmp_path / "below" / "digits"
    assert main(["push", str(workdir), "--output", str(folder), "--license", "mit", "--format", "transformers"]) == 0
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    ours, again = load(workdir), load(folder)
    jax.tree.map(np.testing.assert_array_equal, ours.params, again.params)
    assert again.labels == ours.labels
    card = (folder / "README.md").read_text()
    said = header(card)
    assert said["library_name"] == "transformers" and said["license"] == "mit"
    assert said["pipeline_tag"] == "image-classification"
    [result] = said["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits"}
    assert {"type": "accuracy", "name": "val/accuracy", "value": 0.875} in result["metrics"]
    for line in (
        "# digits",
        f"| commit of vit_jax | {COMMIT} |",
        "| model | vit mu/4 |",
        "| val/accuracy | 0.875 |",
        "| val/&lt;b> | 1 |",
        '    "learning_rate": 0.01,',
    ):
        assert line in card.splitlines(), line
    assert "train/loss" not in card and str(tmp_path) not in card


def test_the_hub_gets_it(workdir, monkeypatch, capsys):
    api = Api()
    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=lambda: api, get_token=lambda: "token")
    )
    assert main(["push", str(workdir), "--to", "hf://me/my-digits", "--private"]) == 0
    (_, (name,), made), (_, files, uploaded) = api.calls
    assert name == uploaded["repo_id"] == "me/my-digits" and made["private"] and made["exist_ok"]
    assert "README.md" in files and "model.safetensors" in files and "token" not in {**made, **uploaded}
    assert "https://huggingface.co/me/my-digits" in capsys.readouterr().out


def test_a_network_that_is_down_is_a_sentence(tmp_path):
    """httpx, which the hub's client speaks with, has errors that are no OSError."""
    with pytest.raises(UserError, match="The hub has not taken me/mine: Connection refused"):
        push.upload(Api(type("ConnectError", (Exception,), {})("Connection refused")), tmp_path, "me/mine", False)


def test_patches_of_another_size(workdir, tmp_path):
    """As `convert` writes them."""
    assert main(["push", str(workdir), "--output", str(tmp_path / "mine"), "--model.patch_size=2"]) == 0
    expected, found = load(workdir, patch_size=2), load(tmp_path / "mine")
    jax.tree.map(np.testing.assert_array_equal, expected.params, found.params)
    assert "| model | vit mu/2 |" in (tmp_path / "mine" / "README.md").read_text().splitlines()


@pytest.mark.parametrize(
    ("argv", "token", "sentence"),
    [
        ([], "x", "There is no place to put it"),
        (["--to", "me/mine"], "x", "--to me/mine is not a repository of the hub. Write hf://owner/name"),
        (["--to", "hf://me/mine"], None, "Nobody is logged in to the hub. Call 'hf auth login' first"),
        (["--to", "hf://me/mine"], "x", "The hub has not taken me/mine: 403 Forbidden"),
        (["--output", "new", "--private"], "x", "--private is of a repository"),
        (["--output", "full"], "x", "full is there already"),
        (["--output", "new", "--format", "open_clip"], "x", "open_clip has no place for this vit"),
    ],
)
def test_what_cannot_be_pushed(workdir, tmp_path, monkeypatch, capsys, argv, token, sentence):
    api = Api(OSError("403 Forbidden\nsecond line"))
    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=lambda: api, get_token=lambda: token)
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert main(["push", str(workdir), *argv]) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_places_are_shortened():
    config = {"init_from": {"encoder": "/home/me/runs/mae/"}, "data": ["~/x.npz", "digits", 3, "hf://a/b"]}
    assert without_places(config) == {"init_from": {"encoder": "mae"}, "data": ["x.npz", "digits", 3, "hf://a/b"]}


def test_a_data_set_that_is_a_folder_is_shortened_too(workdir):
    source = open_source(str(workdir))
    config = {"data": {"train": {"name": "hf", "dataset": "/home/me/secret/birds"}}}
    text = card(dataclasses.replace(source, metadata={**source.metadata, "config": config}), "x", "timm", {"a/b": 1.0})
    assert "| trained on | hf:birds |" in text.splitlines() and "/home" not in text


def test_the_commit(tmp_path):
    assert revision(tmp_path) is None
    found = revision()  # None from an archive without git
    assert found is None or len(found.removesuffix("-dirty")) == 40
