"""The `r1mega` command.

Imports nothing heavy at the top: --help, status and a mistake in a config answer at once. Exit codes: 0 done,
1 failed, 2 a mistake of the user's (one message, no traceback), 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.checks import refuse_layouts
from launch.local import GO_ON, INTERRUPTED, Outcome, cpu_threads, launch
from launch.output import use_output
from launch.watch import HANG_SECONDS
from launch.worker import die_with_launcher, launched, report
from r1mega.progress import attach
from r1mega.report.jobs import job_folder
from r1mega.types import Interrupted, UserError

if TYPE_CHECKING:
    from r1mega.config import RunConfig

HELP = """\
r1mega makes a reasoning model the way DeepSeek-R1 was made. A run is a TOML file: a list of stages,
each a model, data and a schedule. docs/configs.md explains every key.

  r1mega doctor                                               is everything here?
  r1mega doctor --cluster h100x8 --nodes 4                    and on the nodes of a cluster?
  r1mega run configs/toy/pretrain_v3.toml profile=smoke       a first run, within a minute
  r1mega run configs/toy/pretrain_v3.toml stages.base.train.lr=1e-3
  r1mega run configs/toy/sft_gsm8k.toml data.path=train.jsonl --nproc 2
  r1mega rollouts runs/toy-r1-zero --step 40                  what the model answered
  r1mega status runs/toy-pretrain-v3 --watch                  how far it is, from another terminal
  r1mega logs runs/toy-pretrain-v3 --errors                   what its ranks printed, merged by time
  r1mega eval runs/r1-zero --benchmarks aime24,math500        how good it is, with the paper's settings
  r1mega grade answers.jsonl --kind math                      grade answers of your own
  r1mega decontaminate train.jsonl --against benchmarks/ --out clean.jsonl
"""
COMMANDS = {
    "status": "status",
    "logs": "logs",
    "grade": "grade",
    "eval": "evaluate",
    "decontaminate": "decontaminate",
}
"""command -> its module in r1mega.commands."""
RUN_HELP = """\
examples:
  r1mega run configs/toy/r1.toml --list                       the stages as a tree, and which are done
  r1mega run configs/toy/r1.toml --stage rl_reasoning         one stage; what it needs must be done,
                                                              or is made first with with_upstream=true
  r1mega run configs/toy/r1.toml --from cold_start --until rl_reasoning
  r1mega run configs/toy/pretrain_v3.toml profile=smoke       a [profile.NAME] table of the file
  r1mega run configs/toy/pretrain_v3.toml out=/scratch/a      the run's folder, runs/NAME otherwise
  r1mega run configs/toy/pretrain_qwen2.toml stages.base.train.steps=200 --nproc 1

the run's folder:
  summary.json                     every stage with its state, seconds and last metrics
  01-STAGE/config.json             the resolved values
  01-STAGE/metrics.jsonl           one object a step
  01-STAGE/plots/                  the curves
  01-STAGE/checkpoints/            what a run goes on from
  01-STAGE/model/                  the result: a Hugging Face folder (dataset/ or models/ of other stages)
  01-STAGE/benchmarks/             what it was measured on
  01-STAGE/DONE.json               the stage is done; what it was made from

resume: stop a run however you like and give the same command again. Finished stages are skipped, the
newest complete checkpoint is taken up. Ctrl-C finishes the step and keeps a checkpoint first; a second
Ctrl-C stops at once. A stage whose config, files or inputs have changed is made again, and so are those
that depend on it, no others; what and why is said first, and the earlier result is kept (NN-STAGE.old1).

ranks: --nproc N starts N ranks on this machine under torchrun. Under a torchrun or srun of your own
(RANK and WORLD_SIZE are set) the command is one rank of that job.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; the last line on stderr says why it is not 0."""
    die_with_launcher()
    use_output()
    attach()
    arguments = sys.argv[1:] if argv is None else list(argv)
    outcome = guarded(lambda: command(arguments))
    if launched():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # what comes now must not turn into a traceback
        try:
            report(outcome.code, outcome.message, outcome.details)
            return outcome.code
        except OSError as error:
            print(f"cannot report to the launcher: {error}", file=sys.stderr)
    sys.stdout.flush()
    for text in filter(None, (outcome.details, outcome.message)):
        print(text, file=sys.stderr)
    return outcome.code


def guarded(action: Callable[[], Outcome]) -> Outcome:
    """Every way in which a command can end, as an outcome."""
    try:
        return action()
    except UserError as error:
        return Outcome(2, f"error: {error}")
    except Interrupted as stop:
        return Outcome(INTERRUPTED, str(stop))
    except KeyboardInterrupt:
        return Outcome(INTERRUPTED, f"interrupted: {GO_ON}")
    except BrokenPipeError:  # whoever read the output has enough of it, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Outcome(0)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            return Outcome(2, f"error: the disk is full{where}: make room; {GO_ON}")
        text = f"{type(error).__name__}: {error}".splitlines()[0]  # all of it stands in the traceback
        return Outcome(1, f"error: {text}", traceback.format_exc().rstrip())


def command(arguments: list[str]) -> Outcome:
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command == "doctor" and any(word.split("=")[0] == "--cluster" for word in rest):
        from r1mega.commands import cluster_doctor

        return cluster_doctor.main(rest)
    if options.command == "doctor":
        from r1mega import doctor

        return Outcome(doctor.main(rest))
    if options.command in COMMANDS:
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)} (see r1mega {options.command} --help)")
        return _module(options.command).run(options, arguments)
    # argparse gives up on key=value behind an option (run FILE --nproc 2 key=value); take those up here.
    stray = [word for word in rest if options.command != "run" or word.startswith("-") or "=" not in word]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)} (see r1mega {options.command} --help)")
    if options.command == "rollouts":
        from rich.console import Console

        from r1mega.report import rollouts

        room = rollouts.find_room(options.run)
        step = rollouts.steps_with_rollouts(room)[-1] if options.step is None else options.step
        rows = rollouts.read_rollouts(room, step)
        rollouts.show(rows, step, Console(), rollouts.most_improved(room, step, rows))
        return Outcome(0)
    return run(options.config, [*options.overrides, *rest], options)


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("r1mega", description=HELP, formatter_class=raw, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    text = "run the stages of a config, or go on where the last run stopped"
    run_parser = commands.add_parser(
        "run", help=text, description=text, epilog=RUN_HELP, formatter_class=raw, allow_abbrev=False
    )
    run_parser.add_argument("config", metavar="CONFIG", help="a .toml file")
    run_parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that win over the file's"
    )
    run_parser.add_argument("--nproc", metavar="N", help="ranks on this machine, the same as nproc=N")
    run_parser.add_argument("--stage", metavar="NAME,...", help="only this stage, or these")
    run_parser.add_argument("--from", metavar="NAME", dest="first", help="this stage and those after it")
    run_parser.add_argument("--until", metavar="NAME", dest="last", help="no stage after this one")
    run_parser.add_argument("--list", action="store_true", help="show the stages as a tree and stop")
    run_parser.add_argument(
        "--keep-output", action="store_true", help="what each rank prints goes to a file, for r1mega logs"
    )
    run_parser.add_argument(
        "--hang-minutes",
        metavar="M",
        type=float,
        default=HANG_SECONDS / 60,
        help="several ranks that stand still for so long are stopped, and the culprit is named (30)",
    )

    text = "show what was answered in a step: the best, the worst, the longest, the most improved"
    rollouts_parser = commands.add_parser("rollouts", help=text, description=text)
    rollouts_parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run or of a stage")
    rollouts_parser.add_argument("--step", metavar="K", type=int, help="which step; default: the newest")

    for name in COMMANDS:
        module = _module(name)
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))

    text = "say what is installed, what is missing, and what to do about it"
    commands.add_parser("doctor", help=text, add_help=False)
    return parser


def _module(command: str) -> Any:
    return importlib.import_module(f"r1mega.commands.{COMMANDS[command]}")


def run(file: str, overrides: list[str], options: argparse.Namespace) -> Outcome:
    from r1mega.config import load

    # Also where a shell has set SIGINT aside (a job in the background), and for what asks with SIGTERM.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if options.nproc is not None:
        overrides = [*overrides, f"nproc={options.nproc}"]
    if not options.hang_minutes > 0:
        raise UserError(f"--hang-minutes {options.hang_minutes:g}: give minutes above 0")
    config = load(file, overrides)
    chosen = chosen_stages(config, options)
    is_rank = "RANK" in os.environ or "WORLD_SIZE" in os.environ  # of a torchrun or srun: ours or another
    if options.list:
        from r1mega.report.tree import describe_plan

        print(describe_plan(config))
        return Outcome(0)
    refuse_layouts(config, int(os.environ.get("WORLD_SIZE", "1")) if is_rank else config.nproc)
    if not is_rank:
        if config.nproc > 1:
            ranks = [sys.executable, "-m", "r1mega.cli", "run", file, *overrides]
            ranks += ["--stage", ",".join(chosen)] if chosen else []
            outcome = launch(
                config.nproc,
                ranks,
                threads=config.threads,
                room=job_folder(config.out, "local"),
                hang_seconds=60 * options.hang_minutes,
                keep_output=options.keep_output,
            )
            return finished(outcome, config)
        os.environ["OMP_NUM_THREADS"] = str(config.threads or cpu_threads(1))  # read when torch is imported
    from r1mega.stages import pipeline

    pipeline.run(config, chosen, command=" ".join(["r1mega run", file, *overrides]))
    return Outcome(0) if is_rank else finished(Outcome(0), config)


def chosen_stages(config: RunConfig, options: argparse.Namespace) -> list[str] | None:
    """Those that --stage, --from and --until ask for, in their order; None: all."""
    names = list(config.stages)
    wanted = [] if options.stage is None else options.stage.split(",")
    asked = {"--stage": wanted, "--from": [options.first], "--until": [options.last]}
    if options.stage is not None and (options.first or options.last):
        raise UserError("--stage names what to run; leave out --from and --until")
    for option, given in asked.items():
        for name in given:
            if name is not None and name not in names:
                raise UserError(f"{option} {name}: no such stage; stages: {', '.join(names)}")
    if options.stage is not None:
        return [name for name in names if name in wanted]
    if not (options.first or options.last):
        return None
    begin = names.index(options.first) if options.first else 0
    end = names.index(options.last) + 1 if options.last else len(names)
    if begin >= end:
        raise UserError(f"--from {options.first} comes after --until {options.last}: no stage is left")
    return names[begin:end]


def finished(outcome: Outcome, config: RunConfig) -> Outcome:
    """After a run that came to its end: what it did and where to look."""
    if outcome.code == 0 and (config.out / "summary.json").is_file():
        from r1mega.report.status import describe_end

        print(f"\n{describe_end(config.out)}")
    return outcome


if __name__ == "__main__":
    sys.exit(main())
