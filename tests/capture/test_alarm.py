"""Real processes that stand still in every way end themselves; those that get on do not."""

import multiprocessing
import os
import re
import signal
import threading
import time

import pytest

from mads_ray.capture import alarm


def _holds_the_gil():
    re.match(r"(a|aa)+$", "a" * 64 + "b")


def _stops():
    os.kill(os.getpid(), signal.SIGSTOP)


def _sleeps():
    time.sleep(600)


def _stands_still(how):
    with alarm.alarmed(1.0):
        how()


@pytest.mark.parametrize("how", [_sleeps, _stops, _holds_the_gil])
def test_a_process_that_stands_still_ends(how, capfd):
    child = multiprocessing.get_context("fork").Process(target=_stands_still, args=(how,))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    if how is not _stops:
        assert how.__name__ in capfd.readouterr().err  # its stack


def _gets_on():
    for _ in range(8):
        with alarm.alarmed(1.0):
            time.sleep(0.4)
            alarm.put_off()
            time.sleep(0.4)
    time.sleep(2)  # no alarm outside of the block
    with alarm.alarmed(0.0):
        time.sleep(1.5)


def _two_threads():
    def short():
        with alarm.alarmed(1.0):
            time.sleep(0.2)

    with alarm.alarmed(1.0):
        thread = threading.Thread(target=short)
        thread.start()
        thread.join()
        time.sleep(600)


def test_a_thread_that_ends_its_block_does_not_end_the_alarm_of_another():
    child = multiprocessing.get_context("fork").Process(target=_two_threads)
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL


def test_a_process_that_gets_on_lives():
    child = multiprocessing.get_context("fork").Process(target=_gets_on)
    child.start()
    child.join(60)
    assert child.exitcode == 0
