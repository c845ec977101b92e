"""The notebooks run headless from their .py sources, and the committed .ipynb are those sources with good outputs."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from colabs.execute import COLAB, FOLDER, NAMES, execute, link, read, tidy
from vit_jax.data.vocabularies import SHIPPED

FIGURES = {
    "diffusion": 7,
    "efficient_attention": 4,
    "fewshot_probe": 4,
    "finetune_own_folder": 4,
    "image_tokens": 4,
    "look_inside": 7,
    "masked_autoencoder": 3,
    "prompt_learning": 2,
    "promptable": 3,
    "small_gpt": 2,
    "zero_shot": 2,
}
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The kernel finds this clone without an installation, so that the cell that installs does nothing."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def figures(notebook):
    return [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]


def installed(name, what, monkeypatch, here=False):
    """The commands that the first cell of a notebook runs, where it is to install `what`; vit_jax is `here` or not."""
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: found(module) if here else None)
    cell = next(cell for cell in read(name).cells if cell.cell_type == "code")
    source, changed = re.subn(r'(?m)^INSTALL = "vit_jax"  # @param', f"INSTALL = {what!r}  #", cell.source)
    assert changed == 1
    exec(source, {})
    monkeypatch.undo()
    return commands


@pytest.mark.parametrize("name", FIGURES)
def test_the_first_cell_installs(name, monkeypatch):
    """What is missing, from wherever; nothing where vit_jax is there."""
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert installed(name, "vit_jax", monkeypatch, here=True) == []
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    address = "https://example.org/archive/main.zip"
    for what, wanted in (
        ("vit_jax", "vit_jax[hub]"),
        (address, f"vit_jax[hub] @ {address}"),
        ("mine.zip", f"vit_jax[hub] @ {Path.cwd().as_uri()}/mine.zip"),
    ):
        assert installed(name, what, monkeypatch) == [[*pip, wanted]]


@pytest.mark.slow
def test_a_zip_of_the_repository_installs(tmp_path, monkeypatch):
    """With pip, as the first cell has it; only the packages that are there already are not fetched again."""
    git = subprocess.run(["git", "archive", "--format=zip", f"--output={tmp_path}/main.zip", "HEAD"], cwd=REPOSITORY)
    if git.returncode:
        pytest.skip("this is no clone")
    (command,) = installed("look_inside", str(tmp_path / "main.zip"), monkeypatch)
    target = ["--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*command, *target], check=True)
    assert (tmp_path / "site/vit_jax/configs/digits.py").exists()
    assert (tmp_path / "site/vit_jax/data/label_names/imagenet1k.txt").exists()
    assert (tmp_path / "site/vit_jax/data/prompts/imagenet.json").exists()
    for name in SHIPPED:
        assert (tmp_path / "site/vit_jax/data/vocabularies" / name).exists()


def test_badges_and_links(tmp_path):
    """As they come they belong to nobody; linked to a repository, each opens its own notebook there."""
    for path in (FOLDER / "README.md", *(FOLDER / f"{name}{suffix}" for name in NAMES for suffix in (".py", ".ipynb"))):
        shutil.copy(path, tmp_path)
        assert not re.search(r"OWNER(?!/NAME)", path.read_text())
    for repository in ("me/my.fork", "other/vit_jax"):  # also from one to another
        link(repository, tmp_path)
        readme = (tmp_path / "README.md").read_text()
        for name in NAMES:
            badge = f"({COLAB}{repository}/blob/main/colabs/{name}.ipynb)"
            notebook = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
            nbformat.validate(notebook)
            assert badge in readme and badge in notebook.cells[0].source
            assert f'"https://github.com/{repository}/archive/refs/heads/main.zip"' in notebook.cells[1].source
            assert notebook.cells[1].source in (tmp_path / f"{name}.py").read_text()
    with pytest.raises(SystemExit, match="takes OWNER/NAME"):
        link("https://github.com/me/it", tmp_path)


def test_every_notebook_has_both_files():
    assert sorted(FIGURES) == NAMES == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_runs_as_it_is(name, tmp_path):
    """CI runs these of the slow tests."""
    assert len(figures(execute(read(name), tmp_path))) == FIGURES[name]


@pytest.mark.parametrize("name", FIGURES)
def test_committed_notebook_is_its_source(name):
    committed, source = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4), read(name)
    nbformat.validate(committed)
    assert [(c.cell_type, c.source) for c in committed.cells] == [(c.cell_type, c.source) for c in source.cells], (
        f"run: python colabs/execute.py {name}"
    )
    assert committed.metadata.jupytext.formats == "ipynb,py:percent"


@pytest.mark.parametrize("name", FIGURES)
def test_committed_outputs(name):
    path = FOLDER / f"{name}.ipynb"
    committed = nbformat.read(path, as_version=4)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(figures(committed)) == FIGURES[name] and path.stat().st_size < 1e6
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for o in outputs)
    assert not re.search(r"(?m)(^|[\s'\"(=])(/\w+/|[A-Z]:\\)|^step +\d+/|Traceback|Warning", text)


def test_an_error_in_a_cell_is_raised(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, tmp_path)


def test_tidy_keeps_the_report_and_drops_progress_and_paths(tmp_path):
    cell = nbformat.v4.new_code_cell("pass")
    lines = (
        f"207 parameters on 1 cpu device, workdir {tmp_path}/runs\nstep 1/2  lo",
        "ss 1\ninit_from runs: 3\n  missing 1\n",
    )
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text=text) for text in lines]
    tidied = tidy(nbformat.v4.new_notebook(cells=[cell]), tmp_path).cells[0].outputs
    assert [output.text for output in tidied] == [
        "207 parameters on 1 cpu device, workdir runs\ninit_from runs: 3\n  missing 1\n"
    ]
