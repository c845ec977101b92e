"""The one exception that is meant for people, and how text that came from strangers is shown to them."""

import re

# Controls (C0, DEL, C1), line and paragraph separators, and what turns the direction of the text around it: on a
# terminal they move the cursor, set its title, forge lines or make one name look like another. Surrogates stand for
# the bytes of file names that are not text, and cannot be written. Joiners stay: scripts and emoji need them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_WORD = 300


def printable(text: object) -> str:
    r"""`text` on one line and harmless on a terminal: its control characters become escapes such as `\x1b` and `\n`.

    For whatever a file, an archive or an address brought along: names of files, classes, columns, parameters.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def shortened(text: str, most: int = _LONGEST_WORD) -> str:
    """`text` with its middle left out where it has more than `most` characters."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again


class UserError(Exception):
    """Something the caller can put right: what is wrong and what to do about it.

    It is raised where the fault is known, by checking before calling. The command line prints it as one
    sentence and exits with status 2; from Python it is an ordinary exception. Everything else is a bug and
    keeps its traceback.

    As text it is printable (see `printable`), whatever names it holds, and a word of more than 300 characters, which
    is a value and no word, is shortened.

    Args:
        what: what is wrong, naming the file, key or value.
        what_to_do: the next thing to try.
    """

    status = 2  # with which the command line exits

    def __init__(self, what: str, what_to_do: str = ""):
        super().__init__(what, what_to_do)
        self.what = what
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        sentences = (text.strip() for text in (self.what, self.what_to_do) if text)
        line = printable(" ".join(text if text.endswith((".", "?", "!")) else f"{text}." for text in sentences))
        return re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda found: shortened(found[0]), line)


class Diverged(UserError):
    """The loss of a run, or its gradient, is not finite any more."""


class ProcessLost(UserError):
    """Another process that a run needs has died or stopped: a data worker, or another process of the same run.

    Nothing is wrong with what the caller asked for: the same command goes on from the last checkpoint, so the command
    line exits with `REQUEUE`.
    """

    status = REQUEUE


class Preempted(Exception):
    """The machine asked a run to stop (SIGTERM), and the run has saved its state.

    The command line exits with `REQUEUE`, on which a launcher starts the same command again.
    """
