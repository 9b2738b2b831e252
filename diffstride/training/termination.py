"""Signals that ask a run to end: SIGTERM, and Ctrl-C."""

import contextlib
import os
import signal
import threading

from diffstride.training.processes import process_count


@contextlib.contextmanager
def termination():
    """Notes the first signal that asks to end; a second one acts as usual.

    Of several processes all are asked to end at the same step, whichever of
    them was sent the signal.

    Yields:
        A function that tells which signal asks to end, or None. Each process
        must call it equally often.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # Python handles signals in its main thread only.
        return
    received = None
    several = process_count() > 1
    # JAX catches the SIGTERM of several processes itself.
    numbers = [signal.SIGINT] if several else [signal.SIGTERM, signal.SIGINT]
    previous = {number: signal.getsignal(number) for number in numbers}

    def note(number, frame):
        nonlocal received
        received = number
        restore()
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    def restore():
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number, handler in previous.items():
        # Who started this process may have made it ignore a signal.
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield _AgreedTermination() if several else lambda: received
    finally:
        restore()


class _AgreedTermination:
    """Asks JAX whether any of the processes was sent a SIGTERM."""

    def __init__(self):
        self._calls = 0

    def __call__(self):
        from jax.experimental import multihost_utils

        self._calls += 1
        if multihost_utils.reached_preemption_sync_point(self._calls):
            return signal.SIGTERM
        return None
