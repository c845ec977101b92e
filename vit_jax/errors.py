"""The one exception that is meant for people."""


class UserError(Exception):
    """Something the caller can put right: what is wrong and what to do about it.

    It is raised where the fault is known, by checking before calling. The command line prints it as one
    sentence and exits with status 2; from Python it is an ordinary exception. Everything else is a bug and
    keeps its traceback.

    Args:
        what: what is wrong, naming the file, key or value.
        what_to_do: the next thing to try.
    """

    def __init__(self, what: str, what_to_do: str = ""):
        super().__init__(what, what_to_do)
        self.what = what
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        sentences = (text.strip() for text in (self.what, self.what_to_do) if text)
        return " ".join(text if text.endswith((".", "?", "!")) else f"{text}." for text in sentences)


class Preempted(Exception):
    """The machine asked a run to stop (SIGTERM), and the run has saved its state.

    The command line exits with `REQUEUE`, on which a launcher starts the same command again.
    """


REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again
