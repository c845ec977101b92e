"""What a signal does to a run of one process."""

import os
import signal

import pytest

from vit_jax.errors import Preempted
from vit_jax.training.interrupt import Interrupt


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)])
def test_a_signal_waits_for_the_end_of_a_step(number, raised):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        assert not interrupt.reached()
        os.kill(os.getpid(), number)
        assert interrupt.reached() and interrupt.reached()
        reason = interrupt.reason(12)
        assert type(reason) is raised
        assert raised is KeyboardInterrupt or "saved at step 12" in str(reason)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_ctrl_c_interrupts_at_once():
    with Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
