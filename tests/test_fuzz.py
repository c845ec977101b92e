"""A short run of `make fuzz`: no damaged file ends in a traceback, a hang or silently wrong numbers."""

import contextlib
import time

import pytest

from tests.fuzz import harness

# Whole workdirs are gone on with, which takes training.
KINDS = [pytest.param(kind, marks=pytest.mark.long if kind == "workdirs" else ()) for kind in harness.kinds()]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind):
    # The limit is for cases that never end; a busy machine may be slow, and `make fuzz` is stricter.
    tally = harness.last(harness.run(kind, harness.seeds_of(0, 60), limit_s=60))
    assert not tally.defects, harness.report([tally])
    assert tally.refused > 0  # the damage does reach the reader


def test_a_case_ends_that_swallowed_its_first_alarm():
    with pytest.raises(harness.Hang), harness._bounded(0.1):
        with contextlib.suppress(harness.Hang):
            time.sleep(5)
        time.sleep(0.5)
