"""osum-echat average: the mean of the last (or best) checkpoints of a run, as avg_<num>.pt with a side .yaml that lists them."""

from __future__ import annotations

import argparse
import sys

from osum_echat.bin._cli import run_cli
from osum_echat.errors import UserError
from osum_echat.train.average import average_run
from osum_echat.train.checkpoint import RunDir


def _body() -> int:
    parser = argparse.ArgumentParser(prog="osum-echat average", description=__doc__)
    parser.add_argument("--dir", required=True, help="run directory with step_N.pt files")
    parser.add_argument("--num", type=int, default=3, help="how many checkpoints (default: 3)")
    parser.add_argument("--best", action="store_true", help="those with the lowest dev loss instead of the newest")
    parser.add_argument("--final", action="store_true", help="point final.pt at the result")
    args = parser.parse_args()
    if args.num < 1:
        raise UserError(f"--num must be at least 1, got {args.num}")
    run = RunDir(args.dir)
    path = average_run(run, args.num, args.best)
    if args.final:
        run.link_final(path.name)
    print(f"wrote {path} and {path.with_suffix('.yaml').name}" + ("; final.pt is this file" if args.final else ""))
    return 0


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
