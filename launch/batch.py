"""The batch step: it starts one supervisor a node, passes on what Slurm says, and concludes how it ended.

time limit (USR1)     the ranks keep a checkpoint, the job puts itself back into the queue
preemption (TERM)     the ranks keep a checkpoint while there is time; Slurm queues the job again
preemption, unsaid    the ranks alone get TERM and keep a checkpoint, the job queues itself again
scancel (TERM)        the same, and the job is gone
a node is lost        the job queues itself again, without that node; or Slurm does, who is first
a node is not fit     its supervisor says so; the job queues itself again, without that node
anything else         the job has failed, and Slurm stops those that depend on it
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from launch import slurm
from launch.address import address_for
from launch.control import TOKEN, Head
from launch.ends import NodeEnd, conclude
from launch.local import GRACE, INTERRUPTED, Outcome
from launch.records import ended, record, rivals
from launch.request import Request
from launch.slurm import Allocation
from launch.step import environment, step
from launch.submission import SCRIPT as SUBMITIT
from r1mega.config.cluster import Cluster
from r1mega.planner.roles import plan_roles
from r1mega.report.jobs import State, job_folder
from r1mega.report.status import describe_end
from r1mega.types import UserError

UNFIT_ALONE = 3  # nodes that a job of one node tries before it gives up
LATE = 30  # seconds beyond their grace after which supervisors that were asked to stop are stopped
LEFT_ALONE = 60  # seconds that srun may wait for nodes that are dead, when all others have ended
WORD = 30.0  # seconds in which a shared file system shows what a supervisor has written
SIGNALS = {
    signal.SIGUSR1: "time is nearly up (the limit, or preemption)",
    signal.SIGTERM: "Slurm ends the job",
    signal.SIGINT: "interrupted",
}
LEFT_BEHIND = ("node-*.json", "alive-*.json", "hang-*.json", "stacks-*.txt")


class Asked:
    """What signals have said since it was made. The first one is kept."""

    def __init__(self) -> None:
        self.by: int | None = None
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.by is None:
            self.by = number


@dataclass(frozen=True)
class Ending:
    """outcome: as of a run on one machine. asked: the signal that began it. unfit: host -> why."""

    outcome: Outcome
    asked: int | None
    unfit: Mapping[str, str]


def work(request: Request, have: Allocation) -> Outcome:
    """Make the request's stages in this allocation. Returns when they are made, or Slurm ends the job."""
    asked = Asked()
    running = rivals(request.run, [have.job], ["RUNNING"])
    if running:
        raise UserError(f"job {running[0].id} ({running[0].script}) is at work on {request.run}: wait for it")
    hosts = slurm.hosts_of(have.hosts)[: request.nodes]
    folder = job_folder(request.run, have.job)
    clean(folder)
    record(
        request.run,
        have.job,
        "started",
        cluster=request.cluster.name,
        script=request.script,
        stages=request.stages,
        nodes=request.nodes,
        ranks=request.ranks,
        hosts=hosts,
        restarts=have.restarts,
        log=next(iter(slurm.show(have.job) or [{}])).get("StdOut", ""),
    )
    print(describe(request, have, hosts), flush=True)
    ending = run_step(request, have, hosts, folder, asked)
    return conclude_job(request, have, ending)


def clean(folder: Path) -> None:
    """What an earlier attempt of the same job has left would be taken for this one's."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in LEFT_BEHIND:
        for path in folder.glob(pattern):
            path.unlink()


def describe(request: Request, have: Allocation, hosts: tuple[str, ...]) -> str:
    again = f", attempt {have.restarts + 1}" if have.restarts else ""
    plan = plan_roles(hosts, request.cluster.nodes.ranks, ranks=request.ranks, roles=request.config.roles)
    return f"job {have.job}{again}: {', '.join(request.asked)} of {request.run}\n{plan}"


def run_step(
    request: Request, have: Allocation, hosts: tuple[str, ...], folder: Path, asked: Asked
) -> Ending:
    """Start the supervisors and wait for them."""
    cluster = request.cluster
    address = address_for(hosts[1:], cluster.network.interface)
    head = Head(request.nodes, secrets.token_hex(16))
    arguments = ["-m", "launch.node", "--head", f"{address}:{head.port}", "--ranks", str(request.ranks)]
    arguments += ["--ranks-per-node", str(cluster.nodes.ranks), "--gpus", str(cluster.nodes.gpus)]
    grace = grace_of(cluster)
    arguments += ["--grace", f"{grace:g}", "--hang-seconds", str(cluster.hang_minutes * 60)]
    arguments += ["--folder", str(folder.absolute())]
    arguments += ["--threads", str(request.config.threads or 0), "--", *request.rank_arguments]
    command = step(
        cluster,
        nodes=request.nodes,
        cpus=min(cluster.nodes.cpus or have.cpus, have.cpus),
        arguments=arguments,
        folders=[Path.cwd(), request.run.absolute()],
    )
    env = {**os.environ, TOKEN: head.token, **environment(cluster)}
    # A session of its own: Ctrl-C at a terminal must reach the ranks by way of us only.
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    late = wait(process, head, asked, lambda: note_stop(request, have, asked), grace)
    head.close()
    return gather(request, hosts, folder, head, asked, late=late)


def grace_of(cluster: Cluster) -> float:
    """Seconds that ranks have to keep a checkpoint: until the time limit, less a minute for what follows."""
    return max(GRACE, cluster.slurm.stop_before - 60)


def note_stop(request: Request, have: Allocation, asked: Asked) -> None:
    """Say what was asked. Slurm may leave no time for more: how the ranks end is recorded later, or never."""
    said = SIGNALS[signal.Signals(asked.by or 0)]
    print(f"{said}: keeping a checkpoint", file=sys.stderr, flush=True)
    ended(request.run, have.job, "stopped", INTERRUPTED, said)


def wait(
    process: subprocess.Popen[bytes],
    head: Head,
    asked: Asked,
    on_stop: Callable[[], None],
    grace: float = GRACE,
) -> bool:
    """Until srun has ended; a signal asks the supervisors to stop, and stops them when they are late.

    Returns whether any were.
    """
    late = False
    told: float | None = None
    alone: float | None = None
    while process.poll() is None:
        if asked.by is not None and told is None:
            told = time.monotonic()
            head.stop()
            on_stop()
        if told is None and head.order:
            told = time.monotonic()  # a node has failed; the head has asked the others
        if told is not None and time.monotonic() > told + grace + LATE:
            process.terminate()
            told, late = time.monotonic(), True
        if head.all_ended:
            alone = alone or time.monotonic()
            if time.monotonic() > alone + LEFT_ALONE:
                process.terminate()
                alone = time.monotonic()
        time.sleep(0.2)
    return late


def gather(
    request: Request, hosts: tuple[str, ...], folder: Path, head: Head, asked: Asked, *, late: bool = False
) -> Ending:
    """What the nodes have left, as one ending. late: supervisors were stopped, which had not ended."""
    ends = read_words(folder, request.nodes, head.told)
    unfit = {end.host: end.bad for end in ends.values() if end.bad}
    per_node = request.cluster.nodes.ranks
    silent = {
        hosts[node]: range(node * per_node, min((node + 1) * per_node, request.ranks))
        for node in range(request.nodes)
        if node not in ends
    }
    if unfit:
        return Ending(Outcome(1, f"not fit: {_list(unfit)}"), asked.by, unfit)
    if not ends:
        text = "error: no supervisor has left word: could Slurm start them? see above"
        return Ending(Outcome(INTERRUPTED if asked.by else 1, text), asked.by, {})
    stopping = asked.by is not None
    left = [node for node in range(request.nodes) if node not in ends]
    if lost := lost_nodes(left, head.gone, stopping=stopping, late=late):
        gone = {hosts[node]: "no word of its supervisor" for node in lost}
        return Ending(Outcome(1, f"lost: {_list(gone)}"), asked.by, gone)
    outcome = conclude(
        ends.values(),
        silent,
        first=head.order,
        stopping=stopping,
        grace=grace_of(request.cluster),
    )
    return Ending(outcome, asked.by, {})


def read_words(folder: Path, nodes: int, told: Collection[int]) -> dict[int, NodeEnd]:
    """node -> its last word. told: nodes that have left one, which a shared file system may show late."""
    until = time.monotonic() + WORD
    while True:
        ends = {node: end for node in range(nodes) if (end := NodeEnd.read(folder, node)) is not None}
        if ends.keys() >= set(told) or time.monotonic() > until:
            return ends
        time.sleep(0.5)


def lost_nodes(silent: Collection[int], gone: Collection[int], *, stopping: bool, late: bool) -> list[int]:
    """Of the nodes that left no word those that are dead. Pure.

    stopping: Slurm asked the job to stop, and may have ended supervisors. gone: nodes whose connection broke.
    late: srun was stopped, and with it supervisors that lived.
    """
    if stopping:
        return []
    return sorted(node for node in silent if node in gone or not late)


def _list(unfit: Mapping[str, str]) -> str:
    return "; ".join(f"{host}: {why}" for host, why in unfit.items())


def conclude_job(request: Request, have: Allocation, ending: Ending) -> Outcome:
    """Record the end; put the job back into the queue where it is to go on."""
    outcome = ending.outcome
    # Of a stop that nobody told us of Slurm told the ranks. submitit queues its jobs again by itself.
    interrupted = outcome.code == INTERRUPTED and ending.asked != signal.SIGINT
    interrupted = interrupted and (ending.asked == signal.SIGUSR1 or request.script != SUBMITIT)
    # Where every node is said to be unfit, it is the cluster file rather than the nodes.
    some = 0 < len(ending.unfit) < request.nodes or (request.nodes == 1 and have.restarts < UNFIT_ALONE)
    unfit = bool(ending.unfit) and some and ending.asked in (None, signal.SIGUSR1)
    again = (interrupted or unfit) and slurm.wanted(have.job)
    if again and have.restarts >= request.cluster.slurm.requeues:
        again = False
        outcome = Outcome(outcome.code, f"{outcome.message}; not queued again: slurm.requeues is reached")
    states: dict[int, State] = {0: "done", INTERRUPTED: "stopped"}
    state: State = "requeued" if again else states.get(outcome.code, "failed")
    ended(request.run, have.job, state, outcome.code, outcome.message)
    if outcome.code == 0 and (request.run / "summary.json").is_file():
        print(f"\n{describe_end(request.run)}", flush=True)
    return come_back(request, have, ending, outcome) if again else outcome


def come_back(request: Request, have: Allocation, ending: Ending, outcome: Outcome) -> Outcome:
    """Queue this job again, off the nodes that are not fit. Slurm ends this process soon after."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    print(f"{outcome.message}\nback into the queue", file=sys.stderr, flush=True)
    wrong = slurm.requeue(have.job)
    if wrong:
        text = f"error: Slurm does not take the job back ({wrong}); submit it again to go on"
        ended(request.run, have.job, "failed", 1, text)
        return Outcome(1, text)
    if ending.unfit:
        keep_off(have.job, ",".join(ending.unfit))
    return Outcome(outcome.code)


def keep_off(job: str, hosts: str) -> None:
    """Nodes can be excluded once the job is pending again, which takes Slurm a moment."""
    for _ in range(20):
        wrong = slurm.exclude(job, hosts)
        if not wrong:
            return
        time.sleep(0.5)
    print(f"cannot keep the job off {hosts}: {wrong}", file=sys.stderr, flush=True)
