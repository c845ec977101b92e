"""Ctrl-C that stops cleanly: the loop asks between steps, saves, and leaves."""

import signal
import threading
from types import FrameType
from typing import Self


class Interrupt:
    """While active, the first SIGINT only sets `requested`; a second one interrupts at once."""

    def __init__(self):
        self.requested = False

    def __enter__(self) -> Self:
        # Handlers can be set in the main thread only (a notebook may train in another one).
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
