"""osum-echat train: train a model from a YAML and its data lists.

One process by default; under torchrun one per GPU (or, with --device cpu, per process). The run goes on from the last checkpoint in
--dir unless --resume none. Ctrl-C or SIGTERM finishes the step, saves, prints how to go on and ends with status 130.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys

from rich.console import Console

from osum_echat.bin._cli import INTERRUPTED, run_cli
from osum_echat.config import AnyRun, load_run, save_config
from osum_echat.train.assemble import ARCHS, assemble, check_empty, describe_plan
from osum_echat.train.checkpoint import RunDir
from osum_echat.train.engine import ENGINES, Engine, choose_device, make_engine
from osum_echat.train.environment import describe_environment, write_environment
from osum_echat.train.preflight import preflight
from osum_echat.train.trainer import Trainer


def make_parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(prog="osum-echat train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML of the run (docs/configuration.md)")
    parser.add_argument("--dir", required=True, help="run directory: checkpoints, train.yaml, metrics.jsonl, tensorboard, env.json")
    parser.add_argument("--init", help="checkpoint to start from (train.init)")
    parser.add_argument(
        "--resume", choices=["auto", "none"], default="auto", help="go on from the last checkpoint in --dir (default: auto)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key of the YAML; may be repeated")
    parser.add_argument("--allow_change", action="store_true", help="go on in --dir although its train.yaml has other settings")
    parser.add_argument("--train_engine", choices=["auto", *ENGINES], default="auto", help="default: torch_ddp under torchrun, else single")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: cuda where torch sees a GPU")
    parser.add_argument("--dist_backend", choices=["gloo", "nccl"], help="default: nccl on GPUs, gloo on CPUs")
    parser.add_argument("--dry_run", action="store_true", help="build everything, read one batch, print the plan; writes nothing")
    return parser


def resume_command() -> str:
    """The command that goes on with this run, as it was started."""
    arguments = [("auto" if before == "--resume" else item) for before, item in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)]
    arguments = ["--resume=auto" if item.startswith("--resume=") else item for item in arguments]
    if "LOCAL_WORLD_SIZE" not in os.environ:
        launch = ["python", "-m"]
    elif int(os.environ.get("GROUP_WORLD_SIZE", "1")) == 1:
        launch = ["torchrun", "--standalone", "--nproc_per_node", os.environ["LOCAL_WORLD_SIZE"], "-m"]
    else:
        launch = ["torchrun", "<the same launch options>", "-m"]
    return shlex.join([*launch, "osum_echat.bin.train", *arguments])


def _prepare_dir(cfg: AnyRun, args: argparse.Namespace, engine: Engine, step: int) -> None:
    """Write train.yaml and env.json, once."""
    if engine.is_main:
        run = RunDir(args.dir)
        run.path.mkdir(parents=True, exist_ok=True)
        save_config(cfg, run.path / "train.yaml", allow_change=args.allow_change)
        write_environment(run.path / "env.json", describe_environment(cfg.seed, step, engine.world, engine.device))
    engine.gather(None)  # nobody starts before the directory is ready


def _dry_run(trainer: Trainer, console: Console) -> int:
    batch = next(iter(trainer.loaders("train", 0, None)))
    console.print(f"first batch: {len(batch.keys)} utterances, {batch.num_positions} positions, {batch.num_supervised} supervised")
    return 0


def _train(cfg: AnyRun, args: argparse.Namespace, engine: Engine, console: Console) -> int:
    run = RunDir(args.dir)
    console.print(describe_plan(cfg, engine), markup=False, highlight=False, soft_wrap=True)
    if args.dry_run:
        return _dry_run(assemble(cfg, run, engine, console, resume=False), console)
    if args.resume == "none":
        check_empty(run)
    trainer = assemble(cfg, run, engine, console, resume=args.resume == "auto")
    _prepare_dir(cfg, args, engine, trainer.position.step)
    if cfg.train.preflight:
        peak = preflight(trainer.model, trainer.objective, engine, ARCHS[cfg.model.arch].largest_batch(cfg))
        console.print(f"preflight: the largest batch fits, peak memory {peak / 1e9:.2f} GB", highlight=False)
    step, finished = trainer.run()
    if not finished:
        console.print(f"stopped by a signal after step {step}; everything is saved. Go on with:\n  {resume_command()}", soft_wrap=True)
        return INTERRUPTED
    console.print(f"done after step {step}: {run.path / 'final.pt'}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _body() -> int:
    args = make_parser().parse_args()
    overrides = [*args.set, *([f"train.init={json.dumps(args.init)}"] if args.init else [])]
    cfg = load_run(args.config, overrides)
    engine = make_engine(args.train_engine, choose_device(args.device), cfg.train.dtype, args.dist_backend)
    try:
        return _train(cfg, args, engine, Console(quiet=not engine.is_main))
    finally:
        engine.close()


def main() -> int:
    """Entry point."""
    return run_cli(_body)


if __name__ == "__main__":
    sys.exit(main())
