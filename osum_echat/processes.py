"""Where worker processes come from.

A clean server forks them: a process that trains holds threads (gloo, OpenMP, TensorBoard), and a fork of it could wait forever for a lock
of theirs. The server and all it forks start with SIGINT and SIGTERM blocked, in every thread: Ctrl-C and a scheduler's SIGTERM reach the
whole process group, and a worker that is only just starting would be lost to them.
"""

import multiprocessing
import signal
import sys
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def clean_context() -> ForkServerContext:
    """For worker processes. They leave Ctrl-C to their parent, and SIGTERM too unless they call :func:`heed_sigterm`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_loaded_modules())
    resource_tracker.ensure_running()  # first: starting it unblocks both signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def heed_sigterm() -> None:
    """Called in a worker (as a pool's initializer): it can be terminated from now on, by its pool and by others."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _loaded_modules() -> list[str]:
    """What of this library the process has imported: a worker imports it too, which is quick when the server has done so before."""
    return [name for name in sys.modules if name.startswith("osum_echat.") and not name.startswith("osum_echat.bin.")]
