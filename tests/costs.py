"""What each test costs: seconds of CPU, its processes' too, and how many programs it hands to the compiler."""

import json
import os
import time
from pathlib import Path

import jax
import pytest

# The suite's time is the number of programs that it compiles. Run eagerly, a module compiles one for every operation:
# jit it whole, or take shapes from jax.eval_shape and numbers from NumPy.
MOST_PROGRAMS = 64
_COMPILE = "/jax/core/compile/backend_compile_duration"
_STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    _COMPILE: "compile",
}


class Costs:
    """Counts compilations, of a test and of the fixtures it is the first to ask for; writes a line a test if told where."""

    def __init__(self, path: Path | None):
        self.path = path
        self.seconds = dict.fromkeys(_STAGES.values(), 0.0)
        self.programs = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _write(self, test: str, cost: dict[str, float]) -> None:
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps({"test": test, **{k: round(v, 3) for k, v in cost.items()}}) + "\n")

    def _on_event(self, event: str, duration: float, **_) -> None:
        if event in _STAGES:
            self.seconds[_STAGES[event]] += duration
            self.programs += event == _COMPILE

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        """Fails a test of the fast tier that compiles too many programs by itself."""
        before = self.programs
        result = yield
        found = self.programs - before
        if found > MOST_PROGRAMS and not any(map(item.get_closest_marker, ("long", "slow", "oracle"))):
            pytest.fail(f"This test compiled {found} programs, of at most {MOST_PROGRAMS}: see tests/costs.py")
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        before, programs = dict(self.seconds), self.programs
        wall, cpu, children = time.perf_counter(), time.process_time(), _of_children()
        try:
            return (yield)
        finally:
            cost = {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "children": _of_children() - children,
                "programs": self.programs - programs,
                **{k: v - before[k] for k, v in self.seconds.items()},
            }
            self._write(item.nodeid, cost)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self):
        """What a worker did before its first test: imports, for the most part."""
        self._write("collection", {"cpu": time.process_time()})


def _of_children() -> float:
    """Seconds of CPU of the processes that this one started and waited for."""
    times = os.times()
    return times.children_user + times.children_system
