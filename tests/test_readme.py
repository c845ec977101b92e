"""What the README says and the code knows."""

import re
from pathlib import Path

from vit_jax.checkpoints.source import families_of
from vit_jax.commands.main import _COMMANDS

README = Path(__file__).parents[1] / "README.md"
_FILES = {"google": "npz", "timm": "safetensors", "transformers": "safetensors"}


def families_table() -> str:
    """The table of families, from the modules themselves: paste what the assertion below prints."""
    rows = [("library", "file", "models", "compared with")]
    rows += [(f.LIBRARY, _FILES[f.LIBRARY], f.MODELS, f.COMPARED) for f in families_of()]
    order = sorted(rows[1:], key=lambda row: (row[0] != "timm", row[0] != "transformers"))
    lines = ["| " + " | ".join(row) + " |" for row in [rows[0], ("---",) * 4, *order]]
    return "\n".join(lines)


def test_the_table_of_families_is_the_code_s():
    table = families_table()
    assert table in README.read_text(encoding="utf-8"), f"README.md should hold\n\n{table}"


def test_commands_and_files_exist():
    """Every `vit_jax COMMAND` of the README is one, and every file that it links is there."""
    text = README.read_text(encoding="utf-8")
    for command in re.findall(r"(?:^|`)vit_jax +([a-z-]+)", text, flags=re.M):
        assert command in _COMMANDS, command
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (README.parent / target.replace("\\_", "_")).exists(), target
