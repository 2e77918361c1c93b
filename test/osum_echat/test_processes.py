import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from osum_echat.processes import clean_context, heed_sigterm


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_is_starting_survives_the_signals_of_its_group(number: signal.Signals) -> None:
    process = clean_context().Process(target=time.sleep, args=(0.2,))
    process.start()
    assert process.pid
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == 0


def test_a_worker_that_heeds_sigterm_can_be_ended() -> None:
    with ProcessPoolExecutor(1, clean_context(), heed_sigterm) as pool:
        pid = pool.submit(os.getpid).result()
        job = pool.submit(time.sleep, 60)
        os.kill(pid, signal.SIGTERM)
        with pytest.raises(BrokenProcessPool):
            job.result(timeout=30)


def test_this_process_keeps_its_signals() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    clean_context()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert not before & {signal.SIGINT, signal.SIGTERM}


def test_workers_share_no_memory_with_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork would see what this process has changed since."""
    context = clean_context()
    monkeypatch.setenv("OSUM_ECHAT_TEST", "changed")
    with context.Pool(1, heed_sigterm) as pool:
        assert pool.apply(os.getenv, ("OSUM_ECHAT_TEST",)) is None
