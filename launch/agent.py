"""torchrun's agent, in this process. Imports torch: two seconds that a config error must not wait for.

The agent holds the rendezvous and the ranks' TCP store on a port that the kernel picks, so no two runs on a
machine collide. Two things differ from torchrun's own: ranks are always asked to stop with SIGINT and given
time to keep a checkpoint, and a second signal kills them at once.
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
from typing import NamedTuple

from torch.distributed.elastic.agent.server import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous import registry as rendezvous

KILLED_AFTER = 30  # seconds that torchrun gives the other ranks when one has failed, before it kills them
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(NamedTuple):
    """How the ranks ended.

    codes: rank -> exit code, negative for a signal. order: the ranks that failed before the agent killed any
    itself, first found first. stopped: by a signal to the launcher. killed: by a second one.
    """

    codes: dict[int, int | None]
    order: tuple[int, ...] = ()
    stopped: bool = False
    killed: bool = False


class Agent(LocalElasticAgent):
    """torchrun's agent of one machine; `killed` is set when a second signal made it kill ranks."""

    killed = False

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Ask what runs to stop, wait `timeout` seconds, kill the rest. A signal meanwhile kills at once."""
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._kill)
        if any(code is None for code in self.exit_codes().values()):
            print("stopping: keeping a checkpoint (once more to stop at once)", file=sys.stderr, flush=True)
        super()._shutdown(signal.SIGINT, timeout)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        for rank, code in self.exit_codes().items():
            if code is None:
                self.killed = True
                os.killpg(self._processes().pids()[rank], signal.SIGKILL)  # each rank leads its own group

    def _processes(self) -> SubprocessContext:
        assert isinstance(self._pcontext, SubprocessContext)
        return self._pcontext

    def exit_codes(self) -> dict[int, int | None]:
        """rank -> exit code, None while it runs. On one machine, local ranks are ranks."""
        if self._pcontext is None:
            return {}
        return {rank: worker.proc.poll() for rank, worker in self._processes().subprocess_handlers.items()}


def run_ranks(nproc: int, command: Sequence[str], *, reports: Path, grace: float) -> Ended:
    """Run `command` as `nproc` ranks until all have ended, or one has failed and the others were stopped."""
    quiet()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup
        del before[signal.SIGHUP]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in before)
    here = RendezvousParameters(
        backend="c10d",
        endpoint="127.0.0.1:0",
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        local_addr="127.0.0.1",  # the host's own name need not resolve
    )
    handler = rendezvous.get_rendezvous_handler(here)
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
    try:
        result = agent.run()
        failures = result.failures  # in the order in which they were found
        first = min((failure.timestamp for failure in failures.values()), default=0)
        early = [rank for rank, failure in failures.items() if failure.timestamp < first + KILLED_AFTER - 5]
        return Ended(agent.exit_codes(), tuple(early))
    except SignalException:
        return Ended(agent.exit_codes(), stopped=True, killed=agent.killed)
    finally:
        handler.shutdown()
        for number, old in before.items():
            signal.signal(number, old)


def quiet() -> None:
    """torchrun tells of each step of a shutdown; here one line says how the run ended."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
