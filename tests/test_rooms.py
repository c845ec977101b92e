"""The rooms of the package: each imports only from those above it, no import runs in a circle, and the picture
of them in the README and the manual is the one in the code."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
ROOMS = (
    "nn",
    "models",
    "data",
    "tasks",
    "checkpoints",
    "evaluators",
    "inspection",
    "training",
    "planning",
    "commands",
)
# `vit_jax.load` and `python -m vit_jax`: what the package shows to the outside, resolved when somebody asks for it.
DOORS = {"vit_jax", "vit_jax.__main__"}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file."""
    paths = sorted(package.rglob("*.py"))
    names = (".".join(p.relative_to(package.parent).with_suffix("").parts) for p in paths)
    return dict(zip((n.removesuffix(".__init__") for n in names), paths, strict=True))


def imports(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports anywhere in its text: inside functions and for types too."""
    known = modules(package)

    def named(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in known else node.module

    trees = {name: ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name, path in known.items()}
    return {name: {m for node in tree for m in named(node) if m in known} for name, tree in trees.items()}


def room(module: str) -> str | None:
    """'nn' of 'vit_jax.nn.block'; None for the single files at the top, which stand below all rooms."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a room from one below it in the list, or of a single file at the top from any room."""
    height = {None: -1} | {name: i for i, name in enumerate(ROOMS)}
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if height[room(other)] > height[room(module)] and module not in DOORS
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, empty where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module not in done:
            for other in sorted(graph[module]):
                if found := walk(other, [*path, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return imports(TOP / "vit_jax")


def test_every_folder_is_a_room():
    folders = {p.parent.name for p in (TOP / "vit_jax").glob("*/__init__.py")}
    assert folders == set(ROOMS)


@pytest.mark.long
def test_no_import_runs_upward(graph):
    assert upward(graph) == []


def test_no_circle(graph):
    assert circle(graph) == []


@pytest.mark.long
def test_no_import_starts_a_device():
    """Processes that are to compute together must find each other before."""
    program = """
import importlib, pkgutil, jax, vit_jax
for module in pkgutil.walk_packages(vit_jax.__path__, "vit_jax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
jax.config.update("jax_num_cpu_devices", 3)  # an error once there are devices
print(jax.device_count())
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.stdout == "3\n", run.stderr


def test_what_is_found(tmp_path):
    """The walk sees lazy imports, imports of a name from a module, and circles of more than two."""
    files = {
        "__init__.py": "",
        "errors.py": "from vit_jax.nn import pool",
        "nn/__init__.py": "",
        "nn/pool.py": "def f():\n    from vit_jax.models.vit import ViT",
        "models/__init__.py": "",
        "models/vit.py": "import vit_jax.data.order",
        "data/__init__.py": "",
        "data/order.py": "from vit_jax import errors",
    }
    for name, text in files.items():
        path = tmp_path / "vit_jax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = imports(tmp_path / "vit_jax")
    assert upward(graph) == [
        "vit_jax.errors imports vit_jax.nn.pool",
        "vit_jax.models.vit imports vit_jax.data.order",
        "vit_jax.nn.pool imports vit_jax.models.vit",
    ]
    assert circle(graph) == ["vit_jax.data.order", "vit_jax.errors", "vit_jax.nn.pool", "vit_jax.models.vit"]


@pytest.mark.parametrize("page", ["README.md", "docs/add_a_paper.md"])
def test_the_picture_of_the_rooms(page):
    rows = re.findall(r"^\| `vit_jax/(\w+)` \|", (TOP / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(rows) == ROOMS


@pytest.mark.long
@pytest.mark.parametrize("folder", ["vit_jax", "benchmarks", "colabs", "configs"])
def test_what_is_taken_from_a_module_is_there(folder):
    """A function that moved while one caller still names its old place would be found by whoever runs that line."""
    known, missing = modules(TOP / "vit_jax"), []
    for path in sorted((TOP / folder).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        # A variable or an argument may have the name of a module.
        own = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        own |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        taken = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in nodes
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if f"{node.module}.{alias.name}" in known and (alias.asname or alias.name) not in own
        }
        for node in nodes:
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in taken):
                continue
            if not hasattr(importlib.import_module(taken[node.value.id]), node.attr):
                missing.append(f"{path.relative_to(TOP)}:{node.lineno}: {node.value.id}.{node.attr}")
    assert missing == []
