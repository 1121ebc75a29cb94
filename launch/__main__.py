"""`python -m launch`: submit runs through submitit, or run them on this machine."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.handle import Handle
from launch.local import INTERRUPTED
from launch.send import arguments, executor_of, follow, submit, task
from launch.submission import Batch, plan
from launch.submitted import RunFailed
from r1mega.types import UserError

HELP = """\
examples:
  python -m launch configs/toy/r1_zero.toml --cluster local              here, and shows what it prints
  python -m launch configs/r1/r1_v3_671b.toml --cluster h100x8 --dry-run what would be submitted
  python -m launch configs/r1/r1_v3_671b.toml --cluster h100x8 --stage rl_reasoning
  python -m launch configs/toy/r1.toml --cluster test --each-stage       a job a stage, one after another
  python -m launch configs/toy/pretrain_v3.toml --cluster test --sweep train.lr=1e-3 --sweep train.lr=3e-3
  python -m launch configs/distill/*.toml --cluster h100x8 data.path=rows.jsonl     an array over the targets

A job that is preempted or comes to its time limit keeps a checkpoint and goes on later. docs/submitit.md
"""


def main(argv: Sequence[str] | None = None) -> int:
    """0 done or submitted, 1 failed, 2 a mistake of the user's, 130 interrupted."""
    options = build_parser().parse_intermixed_args(argv)
    configs = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    chosen = {
        "stages": options.stage.split(",") if options.stage else None,
        "overrides": overrides,
        "sweep": [one.split() for one in options.sweep],
        "nodes": options.nodes,
        "each_stage": options.each_stage,
    }
    try:
        if options.dry_run:
            for number, batch in enumerate(plan(configs, options.cluster, **chosen), start=1):
                print(describe(number, batch, options.after))
            return 0
        handles = submit(configs, options.cluster, after=options.after, **chosen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for handle in handles:
        said = f"job {handle.id}: {', '.join(handle.request.stages)} in {handle.request.run}"
        print(f"{said}\n  log: {handle.log}", flush=True)
    return wait(handles) if options.wait or handles[0].executor == "local" else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m launch",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "words", nargs="+", metavar="CONFIG key=value", help="configs, several make an array; and overrides"
    )
    parser.add_argument("--cluster", metavar="NAME", help="in configs/clusters; default: $R1MEGA_CLUSTER")
    parser.add_argument("--stage", metavar="NAME,...", help="only this stage, or these")
    parser.add_argument("--each-stage", action="store_true", help="a job for each stage, one after another")
    parser.add_argument(
        "--sweep",
        metavar="'key=value ...'",
        action="append",
        default=[],
        help="one of several runs; repeat it",
    )
    parser.add_argument("--nodes", metavar="N", type=int, help="instead of what the config's nproc needs")
    parser.add_argument(
        "--after", metavar="JOB", action="append", default=[], help="begin when this job has ended well"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, no more")
    parser.add_argument(
        "--wait", action="store_true", help="wait for the jobs; always so with --cluster local"
    )
    return parser


def describe(number: int, batch: Batch, after: Sequence[str]) -> str:
    """What would be submitted, for people."""
    first, kind = batch.requests[0], executor_of(batch)
    jobs = "1 job" if len(batch.requests) == 1 else f"an array of {len(batch.requests)} jobs"
    where = f"{batch.nodes} node{'s' if batch.nodes > 1 else ''} of cluster {first.site}"
    lines = [f"submission {number}: {jobs}, {first.ranks} ranks on {where}"]
    if kind == "slurm":
        dependency = follow(batch, after, [f"<submission {number - 1}>"])
        lines += [f"  #SBATCH {one}" for one in arguments(batch, dependency)]
    for request in batch.requests:
        lines += [
            f"  run {request.config.name} in {request.run}",
            f"    stages:  {', '.join(request.stages)}",
        ]
        lines += [f"    command: {shlex.join(task(request, kind).command)}"]
    return "\n".join(lines)


def wait(handles: Sequence[Handle]) -> int:
    """Wait for all jobs, and show what a single one prints. Ctrl-C cancels those of this machine only."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = 0
    try:
        for handle in handles:
            log = Log(handle.log)
            try:
                handle.result(meanwhile=log.show if len(handles) == 1 else lambda: None)
            except RunFailed as error:
                print(f"error: {error}", file=sys.stderr)
                code = 1
        return code
    except KeyboardInterrupt:
        for handle in handles:
            if handle.executor == "local":
                handle.cancel()
        print("interrupted; the same command goes on from the newest checkpoint", file=sys.stderr)
        return INTERRUPTED


class Log:
    """A file that grows; `show` prints what is new."""

    def __init__(self, path: Path) -> None:
        self.path, self.shown = path, 0

    def show(self) -> None:
        if self.path.is_file():
            with self.path.open(encoding="utf-8", errors="replace") as file:
                file.seek(self.shown)
                sys.stdout.write(file.read())
                sys.stdout.flush()
                self.shown = file.tell()


if __name__ == "__main__":
    sys.exit(main())
