"""The notebooks run headless from their .py sources, and the committed .ipynb are those sources with good outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from colabs.execute import FOLDER, NAMES, execute, read, tidy

FIGURES = {"fewshot_probe": 4, "finetune_own_folder": 4, "look_inside": 7, "masked_autoencoder": 3}
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The kernel finds this clone without an installation, so that the cell that installs does nothing."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def figures(notebook):
    return [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]


def shortened(notebook):
    """With the numbers of steps in the forms made small, and checked to be there."""
    found = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, changed = re.subn(r"(?m)^(\w*STEPS) = \d+(?=  # @param)", r"\1 = 16", cell.source)
            found += changed
    assert found
    return notebook


def test_every_notebook_has_both_files():
    assert sorted(FIGURES) == NAMES == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_runs_with_few_steps(tmp_path):
    """One of them in every run of the tests; all of them as they are among the slow tests, which CI runs."""
    name = "look_inside"
    notebook = execute(shortened(read(name)), tmp_path)
    assert len(figures(notebook)) == FIGURES[name]
    assert not (tmp_path / "vit_jax_clone").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_runs_as_it_is(name, tmp_path):
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
    assert not re.search(r"(?m)(^|[\s'\"(=])(/\w+/|[A-Z]:\\)|^step \d+/|Traceback|Warning", text)


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
