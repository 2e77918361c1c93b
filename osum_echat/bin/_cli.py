"""What every entry point shares: errors meant for the user are printed in red without a traceback and end with status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console

from osum_echat.errors import UserError

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


def run_cli(main: Callable[[], int | None]) -> int:
    """Runs an entry point's body; the result is its exit status."""
    console = Console(stderr=True)
    try:
        return int(main() or 0)
    except UserError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted", style="red")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has left
        sys.stderr.close()
        return 1
