import signal

import pytest

from diffstride.training.termination import termination


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_acts_as_usual(number):
    usual = []
    before = signal.signal(number, lambda *args: usual.append(args[0]))
    try:
        with termination() as asked_to_end:
            assert asked_to_end() is None
            signal.raise_signal(number)
            assert asked_to_end() == number and usual == []
            signal.raise_signal(number)
            assert usual == [number]
        with termination() as asked_to_end:
            pass
        signal.raise_signal(number)
        assert usual == [number] * 2
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with termination() as asked_to_end:
            signal.raise_signal(signal.SIGINT)
            assert asked_to_end() is None
    finally:
        signal.signal(signal.SIGINT, before)
