"""What the README and the manual in docs/ say, and the code knows: commands, configs, links, code, tables."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax.tasks
from vit_jax.checkpoints.source import families_of
from vit_jax.commands.main import _parser, _with_overrides, main
from vit_jax.training.config import load_config
from vit_jax.training.config_file import config_path, parse_arg, read_header
from vit_jax.training.experiment import build_experiment
from vit_jax.training.parameters import first_match, leaf_names

TOP = Path(__file__).parents[1]
PAGES = [TOP / "README.md", TOP / "launch" / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(TOP).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
_FILES = {"google": "npz"}  # the others: safetensors
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def families_table() -> str:
    """The table of families, from the modules themselves: paste what the assertion below prints."""
    rows = [("library", "file", "models", "compared with")]
    rows += [(f.LIBRARY, _FILES.get(f.LIBRARY, "safetensors"), f.MODELS, f.COMPARED) for f in families_of()]
    order = sorted(rows[1:], key=lambda row: (row[0] != "timm", row[0] != "transformers", row[0] != "open_clip"))
    lines = ["| " + " | ".join(row) + " |" for row in [rows[0], ("---",) * 4, *order]]
    return "\n".join(lines)


def test_the_table_of_families_is_the_code_s():
    table = families_table()
    assert table in TEXTS["docs/weights.md"], f"docs/weights.md should hold\n\n{table}"


def commands(text: str) -> Iterator[str]:
    """Every `vit_jax ...` of a page: lines of its blocks and inline code; shortened ones are left out."""
    for _, block in _FENCED.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line for line in lines if line.startswith("vit_jax "))
    inline = re.findall(r"`(vit_jax [a-z][^`]*)`", _FENCED.sub("", text))
    yield from (code.replace("\n", " ") for code in inline if "..." not in code and "COMMAND" not in code)


def spec_of(arguments: list[str]) -> str | None:
    return arguments[arguments.index("--config") + 1] if "--config" in arguments else None


@pytest.mark.parametrize("page", TEXTS)
def test_commands_parse(page):
    """Each command, its flags and the arguments of its config are real."""
    for command in commands(TEXTS[page]):
        # N is a number; a command named alone needs its required arguments.
        arguments = shlex.split(re.sub(r"\bN\b", "1", command), comments=True)[1:]
        parser = _parser()
        if len(arguments) == 1:
            assert arguments[0] in parser.subcommands.choices, command
            continue
        parser.parse_args(_with_overrides(arguments))
        if spec := spec_of(arguments):
            name, _, given = spec.partition(":")
            if not name.endswith(".py"):  # one of the reader's
                parse_arg(given, **read_header(config_path(name))[1])


def anchors(text: str) -> set[str]:
    """Of the headings, as code hosts and the site make them."""
    titles = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    """Files and headings are there; the manual links only what is on its site."""
    text, folder = _FENCED.sub("", TEXTS[page]), (TOP / page).parent
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text) + re.findall(r'src="(?!https?:)([^"]+)"', text):
        file, _, heading = target.partition("#")
        path = (folder / file.replace("\\_", "_")).resolve() if file else TOP / page
        assert path.exists(), target
        assert not page.startswith("docs/") or path.is_relative_to(TOP / "docs"), f"{target} is not on the site"
        assert not heading or heading in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", TEXTS)
def test_python_code_is_right(page):
    """It parses, and what it imports from this package is there."""
    for language, block in _FENCED.findall(TEXTS[page]):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("vit_jax"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 175


def test_the_site_has_every_page():
    nav = set(re.findall(r"[\w/]+\.md", (TOP / "mkdocs.yml").read_text(encoding="utf-8")))
    assert nav == {page.removeprefix("docs/") for page in TEXTS if page.startswith("docs/")}


@pytest.mark.parametrize("smoke", [False, True])
def test_the_early_stopping_of_the_page_begins(tmp_path, monkeypatch, smoke):
    """Its command as it stands, and with ':smoke'."""

    def begun(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vit_jax.training.open_run.build_program", begun)
    monkeypatch.chdir(tmp_path)
    (command,) = [command for command in commands(TEXTS["docs/small_data.md"]) if "stop_after" in command]
    words = shlex.split(command.replace(" digits_finetune ", " digits_finetune:smoke ") if smoke else command)[1:]
    assert main(words) == 130


def block_after(mark: str, page: str = "docs/add_a_paper.md") -> str:
    return re.search(re.escape(mark) + r"\n```python\n(.*?)^```$", TEXTS[page], re.M | re.S)[1]


def test_the_worked_example_is_the_toy_that_the_tests_train():
    path = "tests/toys/tasks/toy_two_towers.py"
    toy = (TOP / path).read_text(encoding="utf-8")
    assert block_after(f"<!-- file: {path} -->") == toy, f"copy {path} into docs/add_a_paper.md"


def test_the_worked_example_s_config_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(vit_jax.tasks, "__path__", [*vit_jax.tasks.__path__, str(TOP / "tests/toys/tasks")])
    labels = np.arange(12) % 3
    texts = {"labels": labels, "tokens": np.array(["red", "green", "blue"])[labels]}
    np.savez(tmp_path / "pairs.npz", images=np.zeros((12, 12, 12, 3), np.uint8), **texts)
    np.savez(tmp_path / "texts.npz", **texts)
    (tmp_path / "two_towers.py").write_text(block_after("<!-- config -->"))
    spec = f"{tmp_path}/two_towers.py:task=toy_two_towers,pairs={tmp_path}/pairs.npz,texts={tmp_path}/texts.npz"
    experiment = build_experiment(load_config(spec))
    assert set(experiment.evaluators) == {"images", "texts"}
    assert set(experiment.pipeline.batch(0)) >= {"image", "label", "tokens"}


def test_layers_are_unfrozen_one_after_the_other(tmp_path):
    """The config of docs/small_data.md: which parameters learn in which epoch."""
    (tmp_path / "unfreeze.py").write_text(block_after("<!-- config -->", "docs/small_data.md"))
    experiment = build_experiment(load_config(f"{tmp_path}/unfreeze.py"))
    row = experiment.pipeline.batch(0, slices=32)
    params = jax.eval_shape(lambda: experiment.task.init(jax.random.key(0), experiment.on_device_eval(row)))["params"]
    groups = experiment.config.optim["groups"]
    assert [group.get("from_step", 0) for group in groups] == [0, 11, 23, 34]
    patterns, names = [group["match"] for group in groups], leaf_names(params)
    found = [{"/".join(name.split("/")[:2]) for name in names if first_match(patterns, name) == i} for i in range(4)]
    assert found[0] == {"head/bias", "head/kernel"} and found[1] == {"encoder/block_02", "encoder/norm"}
    assert found[2] == {"encoder/block_01"} and "encoder/block_00" in found[3]
