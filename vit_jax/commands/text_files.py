"""Texts that commands are given: on the command line, or a file with one a line."""

from pathlib import Path

from vit_jax.errors import UserError


def lines_of(path: Path, what: str) -> list[str]:
    """The lines of a file, each a text.

    Args:
        what: a text is here, for errors ("prompt").

    Raises:
        UserError: when it is not there, or not UTF-8; it names the line.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path} with {what}s", f"Name a text file with a {what} a line")
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"Line {number} of {path} is not UTF-8", "Save it as UTF-8") from error
        if not lines[-1].strip():
            raise UserError(f"Line {number} of {path} is empty", f"Remove it: a {what} has at least one character")
    return lines
