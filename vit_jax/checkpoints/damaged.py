"""What is wrong with a step directory that cannot be read, in one sentence."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator

from etils import epath

from vit_jax.checkpoints.steps import steps_in
from vit_jax.errors import UserError


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was saved; an older one may be whole."""


@contextlib.contextmanager
def readable(step_path: epath.Path, problem: Callable[[], UserError] | None = None) -> Iterator[None]:
    """Turns Orbax's many ways to fail on a damaged directory into one sentence, without its logs and stray tasks.

    Args:
        problem: makes the error; by default that of a damaged step.
    """
    if not step_path.is_dir():
        raise UserError(f"There is no checkpoint at {step_path}", "Give a workdir, or a directory checkpoints/<step>")
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sharding info not provided")
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
            yield
    except UserError:
        raise
    except Exception as error:  # Orbax raises ValueError, KeyError, OSError and plain Exception for damaged files
        if problem is not None:
            raise problem() from error
        raise DamagedCheckpoint(f"The checkpoint {step_path} is incomplete or damaged", remedy(step_path)) from error
    finally:
        logging.disable(disabled)


def remedy(step_path: epath.Path) -> str:
    """What to do about a step that cannot be used."""
    others = [s for s in steps_in(step_path.parent.parent) if str(s) != step_path.name]
    if others:
        return f"Step {others[-1]} is there too: {step_path.parent / str(others[-1])}"
    return "Use another checkpoint, or start again in a new workdir"
