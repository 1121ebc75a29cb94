"""torchrun's agent, in this process. Imports torch: two seconds that a config error must not wait for.

The agent holds the rendezvous and the ranks' TCP store on a port that the kernel picks, so no two runs on a
machine collide; of several nodes the first one's agent does (`Meeting`). Three things differ from torchrun's
own: ranks are always asked to stop with SIGINT and given time to keep a checkpoint; a second signal kills
them at once (not under Slurm, which sends several and kills by itself); ranks that hang are noticed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.agent.server import WorkerSpec
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)
from torch.distributed.elastic.rendezvous import registry as rendezvous

if TYPE_CHECKING:
    from launch.hang import Hang
    from launch.watch import Watch

HUNG_GRACE = 5  # seconds in which ranks that hang may still end by themselves
KILLED_AFTER = 30  # seconds that torchrun gives the other ranks when one has failed, before it kills them
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(NamedTuple):
    """How the ranks ended.

    codes: rank -> exit code, negative for a signal. order: the ranks that failed before the agent killed any
    itself, first found first. stopped: by a signal to the launcher. killed: by a second one. hang: why the
    agent killed ranks that stood still.
    """

    codes: dict[int, int | None]
    order: tuple[int, ...] = ()
    stopped: bool = False
    killed: bool = False
    hang: Hang | None = None


class Meeting(RendezvousHandler):
    """Where the agents of several nodes meet: a store that the first node's holds, the ranks' own too.

    Nodes keep the numbers that Slurm gave them, so a rank is on the same node in every attempt that gets the
    same nodes. address, port: of the store, as the other nodes reach it.
    """

    def __init__(self, node: int, nodes: int, address: str, port: int, store: TCPStore | None) -> None:
        self.node, self.nodes = node, nodes
        self._store = store or TCPStore(address, port, is_master=False)
        self._where = RendezvousStoreInfo(address, port)

    @property
    def use_agent_store(self) -> bool:
        return True

    def get_backend(self) -> str:
        return "static"

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(PrefixStore("agents", self._store), self.node, self.nodes, self._where)

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return "r1mega"

    def shutdown(self) -> bool:
        return True


class Hung(Exception):
    """The job stands still."""


class Agent(LocalElasticAgent):
    """torchrun's agent of one machine.

    killed:  a second signal made it kill ranks. patient: there is no second signal, they are all the first.
    watcher: looks for ranks that hang; what it found is then in `hang`.
    """

    killed = False
    patient = False
    watcher: Watch | None = None
    hang: Hang | None = None

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if self.watcher is not None and result.state == WorkerState.HEALTHY:
            self.hang = self.watcher.look(self.pids())
            if self.hang is not None:
                raise Hung
        return result

    def _exit_barrier(self) -> None:
        """Nodes wait for each other elsewhere (`control.Node.ended`), where a signal can end the wait."""

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Ask what runs to stop, wait `timeout` seconds, kill the rest. A signal meanwhile kills at once."""
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_IGN if self.patient else self._kill)
        running = any(code is None for code in self.exit_codes().values())
        if running and not self.patient and self.hang is None:
            print("stopping: keeping a checkpoint (once more to stop at once)", file=sys.stderr, flush=True)
        super()._shutdown(signal.SIGINT, HUNG_GRACE if self.hang is not None else timeout)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        pids = self.pids()
        for rank, code in self.exit_codes().items():
            if code is None:
                self.killed = True
                os.killpg(pids[rank], signal.SIGKILL)  # each rank leads its own group

    def _processes(self) -> SubprocessContext:
        assert isinstance(self._pcontext, SubprocessContext)
        return self._pcontext

    def exit_codes(self) -> dict[int, int | None]:
        """Rank (of the whole job) -> exit code, None while it runs."""
        if self._pcontext is None:
            return {}
        handlers = self._processes().subprocess_handlers
        return {self._ranks[local]: one.proc.poll() for local, one in handlers.items()}

    def pids(self) -> dict[int, int]:
        """Rank -> process, of those that run."""
        pids = self._processes().pids()
        codes = self.exit_codes()
        return {self._ranks[local]: pid for local, pid in pids.items() if codes[self._ranks[local]] is None}

    @property
    def _ranks(self) -> list[int]:
        """The ranks of this machine by their local numbers."""
        return [worker.global_rank for worker in self._worker_group.workers]


def run_ranks(
    nproc: int,
    command: Sequence[str],
    *,
    reports: Path,
    grace: float,
    meeting: Meeting | None = None,
    watcher: Watch | None = None,
) -> Ended:
    """Run `command` as `nproc` ranks until all have ended, or one has failed and the others were stopped.

    meeting: of the nodes of a job, of which this one has `nproc` ranks; None: they are on this machine alone.
    With one, the signals that stop are ignored from the ranks' end on.
    """
    quiet()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup
        del before[signal.SIGHUP]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in before)
    handler = meeting or rendezvous.get_rendezvous_handler(_alone())
    spec = WorkerSpec(
        role="rank",
        local_world_size=nproc,
        entrypoint=command[0],
        args=tuple(command[1:]),
        rdzv_handler=handler,
        max_restarts=0,
        monitor_interval=0.1,
        local_addr="127.0.0.1",
    )
    logs = DefaultLogsSpecs(log_dir=str(reports / "torchrun"))
    agent = Agent(spec, logs, shutdown_timeout=int(grace))
    agent.patient, agent.watcher = meeting is not None, watcher
    try:
        result = agent.run()
        failures = result.failures  # in the order in which they were found
        first = min((failure.timestamp for failure in failures.values()), default=0)
        early = [rank for rank, failure in failures.items() if failure.timestamp < first + KILLED_AFTER - 5]
        return Ended(agent.exit_codes(), tuple(early))
    except SignalException:
        return Ended(agent.exit_codes(), stopped=True, killed=agent.killed)
    except Hung:
        return Ended(agent.exit_codes(), hang=agent.hang)
    finally:
        if meeting is not None:  # the supervisor has yet to tell how they ended: a signal would lose that
            before = dict.fromkeys(before, signal.SIG_IGN)
            for number in before:
                signal.signal(number, signal.SIG_IGN)
        if watcher is not None:
            watcher.close()
        handler.shutdown()
        for number, old in before.items():
            signal.signal(number, old)


def _alone() -> RendezvousParameters:
    return RendezvousParameters(
        backend="c10d",
        endpoint="127.0.0.1:0",
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        local_addr="127.0.0.1",  # the host's own name need not resolve
    )


def quiet() -> None:
    """torchrun tells of each step of a shutdown; here one line says how the run ended."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
