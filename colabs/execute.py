"""Runs the notebooks from their .py sources and writes the .ipynb, with outputs, beside them.

python colabs/execute.py                 # all of them
python colabs/execute.py look_inside     # one
"""

import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path != Path(__file__))
TIMEOUT = 600  # seconds a cell


class _ThisPython(AsyncKernelManager):
    """A kernel of the interpreter that runs this, whatever kernels its user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(resource_dir="", **get_kernel_dict())


def read(name: str) -> nbformat.NotebookNode:
    """The notebook of `name`.py, without outputs; its cells have the same ids each time."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{number:02d}".replace("_", "-")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Runs all cells, in `folder`; the first error is raised."""
    where = {"metadata": {"path": str(folder)}}
    return NotebookClient(
        notebook,
        kernel_manager_class=_ThisPython,
        timeout=TIMEOUT,
        startup_timeout=TIMEOUT,  # busy machines
        record_timing=False,
        resources=where,
    ).execute()


def tidy(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Without what differs from run to run and machine to machine: lines of progress, paths, numbers of outputs."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        outputs, errors = [], ""
        for output in cell.outputs:
            if output.output_type == "stream":
                text = output.text.replace(f"{folder}/", "")
                if output.name == "stderr":
                    errors += text
                    continue
                output.text = text
            outputs.append(output)
        # stderr arrives in pieces that may end within a line.
        lines = [line for line in errors.splitlines(keepends=True) if re.match(r"[\d,]+ parameters|init_from|  ", line)]
        if lines:
            outputs.insert(0, nbformat.v4.new_output("stream", name="stderr", text="".join(lines)))
        cell.outputs = outputs
    notebook.metadata.pop("language_info", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = tidy(execute(read(name), Path(folder)), Path(folder))
        path = FOLDER / f"{name}.ipynb"
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
