"""Runs the notebooks from their .py sources and writes the .ipynb, with outputs, beside them.

python colabs/execute.py                 # all of them
python colabs/execute.py look_inside     # one
python colabs/execute.py --link ME/FORK  # none: sets their badges and what they install to that repository on GitHub
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
TIMEOUT = 1800  # seconds a cell, against one that hangs: the longest takes 2 minutes, or 10 at a load average of 9
COLAB = "https://colab.research.google.com/github/"  # alone it asks for a repository
# In the sources, and in the .ipynb, where quotes have a backslash before them.
_BADGE = re.compile(rf"\({re.escape(COLAB)}[^)]*\)")
_INSTALL = re.compile(r'(INSTALL = \\?")[^"\\]*(\\?"  # @param)')


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


def link(repository: str, folder: Path = FOLDER) -> None:
    """Badges open the notebooks of a repository on GitHub, "owner/name", which install a zip of its branch main."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        sys.exit(f"--link takes OWNER/NAME of a repository on GitHub, not {repository!r}")
    address = f"https://github.com/{repository}/archive/refs/heads/main.zip"
    for path in (folder / "README.md", *(folder / f"{name}{suffix}" for name in NAMES for suffix in (".py", ".ipynb"))):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for i, line in enumerate(lines):
            named = re.search(r"\]\((\w+)\.ipynb\)", line)  # README.md has a line a notebook
            name = named[1] if named else path.stem
            line = _BADGE.sub(f"({COLAB}{repository}/blob/main/colabs/{name}.ipynb)", line)
            lines[i] = _INSTALL.sub(rf"\g<1>{address}\g<2>", line)
        path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    if "--link" in sys.argv[1:2]:
        link(sys.argv[2] if sys.argv[2:] else "")
        return
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
