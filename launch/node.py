"""One node's supervisor, started by srun: checks the node, starts its ranks, leaves word how they ended.

    srun --ntasks-per-node=1 ... python -m launch.node --head HOST:PORT --ranks-per-node 8 --ranks 512
                                                       --folder RUN/jobs/4711 -- python -m r1mega.cli run ...

Slurm's signals reach the supervisor and its ranks alike; the first one, or the job's word over `control`,
asks the ranks to keep a checkpoint and end. Then Slurm, not a second signal, decides when time is up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from launch.control import Node
from launch.ends import NodeEnd
from launch.local import GRACE, Outcome, cpu_threads
from launch.output import OUTPUT, Output
from launch.worker import LAUNCHER_PID, REPORTS, read_reports
from r1mega.progress import BEATS


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    node, host = int(os.environ["SLURM_NODEID"]), os.environ.get("SLURMD_NODENAME", socket.gethostname())
    first = node * options.ranks_per_node
    ranks = range(first, min(first + options.ranks_per_node, options.ranks))
    bad = what_is_wrong(options)
    if bad:
        print(f"{host} is not fit: {bad}", file=sys.stderr, flush=True)
        leave_word(NodeEnd(node, host, bad=bad), options.folder)
        Node(address_of(options.head), node, 0, on_stop=lambda: None).ended(1)
        return 0
    try:
        supervise(options, node, host, ranks)
    except Exception as error:
        said = f"error: the supervisor of {host} failed: {type(error).__name__}: {error}".splitlines()[0]
        leave_word(
            NodeEnd(node, host, outcome=Outcome(1, said, traceback.format_exc().rstrip())), options.folder
        )
    return 0  # the word that was left counts; srun would only add that a task exited with 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch.node", description=__doc__.splitlines()[0])
    parser.add_argument("--head", required=True, help="HOST:PORT of the job's control")
    parser.add_argument("--ranks", type=int, required=True, help="of the whole job")
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=0, help="that this node must have")
    parser.add_argument("--folder", type=Path, required=True, help="where word is left")
    parser.add_argument("--hang-seconds", type=float, default=0.0, help="0: nobody looks for ranks that hang")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads a rank; 0: its share of the cores"
    )
    parser.add_argument(
        "--grace", type=float, default=GRACE, help="seconds that ranks have to keep a checkpoint"
    )
    parser.add_argument("command", nargs="+", help="of each rank: arguments of python")
    return parser


def what_is_wrong(options: argparse.Namespace) -> str:
    """Why this node cannot work, or "". Seconds at most: `r1mega doctor --cluster` looks closer."""
    if options.gpus:
        found = gpus()
        if found < options.gpus:
            return f"{found} of {options.gpus} GPUs answer"
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        probe = options.folder / f".probe-{os.getpid()}-{socket.gethostname()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return f"it cannot write to {options.folder}: {error.strerror}"
    return ""


def gpus(patience: float = 120.0) -> int:
    """GPUs that answer within `patience` seconds. nvidia-smi asks the driver, which is what breaks."""
    if shutil.which("nvidia-smi") is None:
        return 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(["nvidia-smi", "--list-gpus"], stdout=said, stderr=subprocess.DEVNULL)
        until = time.monotonic() + patience
        while process.poll() is None:
            if time.monotonic() > until:
                process.kill()  # nor waited for: within a driver that hangs nothing ends it
                return 0
            time.sleep(0.05)
        said.seek(0)
        return sum(line.startswith("GPU ") for line in said)


def supervise(options: argparse.Namespace, node: int, host: str, ranks: range) -> None:
    """Start this node's ranks, wait for them and for those of the other nodes."""
    from torch.distributed import TCPStore

    from launch.agent import Ended, Meeting, run_ranks
    from launch.watch import Watch

    # Under one name whatever Slurm signals, so that what follows is interrupted once and in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    nodes = -(-options.ranks // options.ranks_per_node)
    address, port = address_of(options.head)
    with tempfile.TemporaryDirectory(prefix="r1mega-") as scratch:
        folder = Path(scratch)
        os.environ["OMP_NUM_THREADS"] = str(options.threads or cpu_threads(len(ranks)))
        os.environ |= {LAUNCHER_PID: str(os.getpid()), REPORTS: scratch, BEATS: scratch, OUTPUT: scratch}
        os.environ.setdefault(
            "TORCH_CPP_LOG_LEVEL", "ERROR"
        )  # else name look-ups of sockets are warned about
        talk: Node | None = None
        try:
            store = TCPStore(address, 0, is_master=True, wait_for_workers=False) if node == 0 else None
            talk = Node((address, port), node, store.port if store else 0, interrupt)
            use_interface_of(talk.address)
            meeting = Meeting(node, nodes, address, talk.meet(), store)
            limit = options.hang_seconds
            watch = (
                Watch(folder, ranks, limit, shared=options.folder, node=node, nodes=nodes) if limit else None
            )
            with Output(folder, options.folder, ranks):
                ended = run_ranks(
                    len(ranks),
                    [sys.executable, *options.command],
                    reports=folder,
                    grace=options.grace,
                    meeting=meeting,
                    watcher=watch,
                )
        except KeyboardInterrupt:  # before there were ranks to ask
            ended = Ended(dict.fromkeys(ranks, -signal.SIGINT), stopped=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        end = NodeEnd.of(node, host, ended, read_reports(folder))
        end.write(options.folder)
        if talk is not None:
            talk.ended(int(end.failed))


def leave_word(end: NodeEnd, folder: Path) -> None:
    """A node that cannot write may be unfit for just that; its silence then says so."""
    with suppress(OSError):
        end.write(folder)


def address_of(head: str) -> tuple[str, int]:
    host, port = head.rsplit(":", 1)
    return host, int(port)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def use_interface_of(address: str) -> None:
    """Gloo takes the interface that the host's own name stands for, often a wrong one; this reached the head.

    What the cluster file or the user has set stays.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = name


if __name__ == "__main__":
    sys.exit(main())
