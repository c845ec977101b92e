"""Being told to stop: the loop asks after every step, saves, and leaves."""

import itertools
import os
import signal
import threading
from types import FrameType
from typing import Self

import jax
from jax.experimental import multihost_utils

from vit_jax.errors import Preempted
from vit_jax.training.distributed import in_any, sigterm

# The coordinator agrees on the question after the last one that was asked anywhere, 0 at first. A step's number would
# not do: a run that goes on from step 100 and is told to stop before its first question would never be asked number 1.
_asked = itertools.count(1)


class Interrupt:
    """While active, SIGTERM and the first Ctrl-C wait for the end of a step; a second Ctrl-C interrupts at once.

    In a run of several processes (see `vit_jax.training.distributed`) it is jax that notices SIGTERM, in any of them,
    and has all of them stop after the same step; a Ctrl-C is turned into one.
    """

    def __init__(self):
        self._requested: int | None = None

    def __enter__(self) -> Self:
        self._previous = {}
        # Handlers can be set in the main thread only (a notebook may train in another one).
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if jax.distributed.is_initialized() else (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reached(self) -> bool:
        """Whether the run is to stop here; to be asked after every step, in every process."""
        asked = next(_asked)
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(asked)
        return self._requested is not None or sigterm()

    def reason(self, step: int) -> BaseException:
        """What to raise when the state of the step is saved; to be asked in every process."""
        if in_any(self._requested == signal.SIGINT):
            return KeyboardInterrupt()
        return Preempted(f"SIGTERM; saved at step {step}")

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)
