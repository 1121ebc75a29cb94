"""A command that needs one node and has no run: slurm/eval.sh, slurm/convert.sh.

python -m launch.plain eval.sh [--cluster NAME] ARGUMENTS      the command's own
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import slurm
from launch.batch import Asked
from launch.local import INTERRUPTED, Outcome
from launch.resubmit import SUBMITTED, follow
from launch.slurm import Allocation, mismatches
from launch.step import environment, step
from r1mega.config.cluster import DEFAULT, Cluster, load_cluster
from r1mega.types import UserError


def _eval(cluster: Cluster, arguments: list[str]) -> list[str]:
    ranks = [] if "--nproc" in arguments or not cluster.nodes.gpus else [f"--nproc={cluster.nodes.ranks}"]
    return ["-m", "r1mega.cli", "eval", *arguments, *ranks]


def _convert(cluster: Cluster, arguments: list[str]) -> list[str]:
    return ["tools/convert_hf.py", *arguments]


COMMANDS: dict[str, Callable[[Cluster, list[str]], list[str]]] = {"eval.sh": _eval, "convert.sh": _convert}
"""script -> the arguments of python that it stands for."""


STOPPED = (INTERRUPTED, 128 + signal.SIGTERM, -signal.SIGTERM)
"""How srun ends where Slurm has stopped the command: a preempted job's steps alone may hear of it."""


@dataclass(frozen=True)
class Plain:
    """site: the cluster as it was named. arguments: of the command."""

    script: str
    site: str
    cluster: Cluster
    arguments: tuple[str, ...]

    @property
    def python_arguments(self) -> list[str]:
        return COMMANDS[self.script](self.cluster, list(self.arguments))


def parse(argv: Sequence[str]) -> Plain:
    """--cluster is ours, wherever it stands; all else is the command's."""
    script, *words = argv
    words = [part for word in words for part in _split(word)]
    site = os.environ.get(DEFAULT, "")
    if "--cluster" in words:
        place = words.index("--cluster")
        site = words[place + 1] if place + 1 < len(words) else ""
        words[place : place + 2] = []
    return Plain(script, site, load_cluster(site), tuple(words))


def _split(word: str) -> list[str]:
    """--cluster=NAME -> --cluster NAME"""
    return ["--cluster", word.removeprefix("--cluster=")] if word.startswith("--cluster=") else [word]


def main(argv: Sequence[str] | None = None) -> int:
    try:
        outcome = run(parse(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        outcome = Outcome(2, f"error: {error}")
    sys.stdout.flush()
    if outcome.message:
        print(outcome.message, file=sys.stderr)
    return outcome.code


def run(plain: Plain) -> Outcome:
    have = Allocation.from_env()
    if plain.cluster.scheduler == "none" or {"-h", "--help"} & {*plain.arguments}:
        os.execv(sys.executable, [sys.executable, *plain.python_arguments])
    if have is None:
        job = submit(plain, "person")
        print(f"submitted job {job}\n  tail -f {_log(plain).replace('%j', job)}")
        return Outcome(0)
    short = mismatches(have, plain.cluster, 1, slurm.time_limit(have.job))
    if short and SUBMITTED not in os.environ:
        asked = Asked()
        job = submit(plain, have.job)
        print(f"this allocation has {', '.join(short)}: submitted job {job}, waiting for it", flush=True)
        return follow(job, have, asked, None, come_back=False)
    return work(plain, have)


def _log(plain: Plain) -> str:
    return f"{Path(plain.script).stem}-%j.out"


def submit(plain: Plain, by: str) -> str:
    slurm.require()
    arguments = slurm.directives(
        plain.cluster, nodes=1, name=Path(plain.script).stem, log=Path(_log(plain)).absolute()
    )
    command = ["bash", f"slurm/{plain.script}", "--cluster", plain.site, *plain.arguments]
    return slurm.sbatch(arguments, command, extra={SUBMITTED: by})


def work(plain: Plain, have: Allocation) -> Outcome:
    """Run the command on one node of this allocation; near the time limit it is ended and queued again."""
    asked = Asked()
    cpus = min(plain.cluster.nodes.cpus or have.cpus, have.cpus)
    command = step(plain.cluster, nodes=1, cpus=cpus, arguments=plain.python_arguments, folders=[Path.cwd()])
    process = subprocess.Popen(
        command, env=os.environ | environment(plain.cluster), stdin=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and asked.by is None:
        time.sleep(0.2)
    if asked.by is None and process.returncode not in STOPPED:
        return Outcome(process.returncode if process.returncode >= 0 else 1)
    process.terminate()
    process.wait()
    again = asked.by != signal.SIGINT and have.restarts < plain.cluster.slurm.requeues
    if again and slurm.wanted(have.job):
        wrong = slurm.requeue(have.job)
        return Outcome(INTERRUPTED, f"stopped by Slurm: {wrong or 'back into the queue'}")
    return Outcome(INTERRUPTED, "interrupted; run the same command again to go on")


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(main())
