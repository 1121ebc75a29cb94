"""A real Slurm on this machine: four nodes in network namespaces, fake GPUs, accounting.

    python -m tests.slurm start      bring it up and print what a shell needs to use it
    python -m tests.slurm stop       end it, or what a killed session has left of it

There is one at a time on a machine: the folder and the ports are fixed, and whoever uses it holds its lock.
Everything lies in that folder and goes with it; daemons are ended by their recorded process ids.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.slurm import conf, network, packages
from tests.slurm.daemons import Daemons, wait_until

FOLDER = Path(tempfile.gettempdir()) / "r1mega-slurm"
BY_HAND = "started-by-hand"
READY = {"idle", "mixed", "allocated", "completing"}
NULL_DEVICE = os.makedev(1, 3)  # slurmd wants a device behind each GPU; any will do


class Cluster:
    """The cluster in `folder`. What the commands say is Slurm's; nothing is imitated."""

    def __init__(self, folder: Path = FOLDER, shape: conf.Shape | None = None) -> None:
        self.folder, self.shape = folder, shape or conf.Shape()
        self.run_folder, self.etc = folder / "run", folder / "etc"
        self.daemons = Daemons(self.run_folder)

    @property
    def variables(self) -> dict[str, str]:
        """What every client command needs in its environment."""
        return {"SLURM_CONF": str(self.etc / "slurm.conf")}

    # ---- up and down

    def start(self) -> None:
        """Raises Unavailable where this machine cannot, TimeoutError where a daemon does not come up."""
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        packages.install(self.folder / "apt.log")
        self._lay_out()
        network.up(self.shape.nodes)
        try:
            self._start_munge()
            self._start_accounting()
            self._start_slurm()
        except (TimeoutError, subprocess.SubprocessError) as error:
            said = "\n".join(f"{name}: {self.daemons.told(name)}" for name in self.daemons.names())
            self.stop()
            raise TimeoutError(f"the cluster does not come up: {error}\n{said}") from error

    def stop(self) -> None:
        """End all of it that runs, and remove it. Also what a session that was killed has left."""
        if not self.folder.exists():
            return
        if self.daemons.alive("slurmctld"):
            self._end_jobs()
        for name in reversed(self.daemons.names()):
            self.daemons.stop(name)
        if shutil.which("ip"):
            network.down()
        for part in ("run", "etc", "state", "spool", "dev", "mysql"):
            shutil.rmtree(self.folder / part, ignore_errors=True)
        (self.folder / BY_HAND).unlink(missing_ok=True)

    def is_up(self) -> bool:
        return self.daemons.alive("slurmctld") and self.states().keys() >= {network.node(1)}

    def _end_jobs(self) -> None:
        """In order, where the controller still answers; else they end with their namespaces."""
        with suppress(subprocess.TimeoutExpired):
            for signal in (["--signal=KILL", "--full"], []):
                jobs = self.ask("squeue", "-h", "-r", "-o", "%A", check=False).split()
                if jobs:
                    self.ask("scancel", *signal, *sorted(set(jobs)), check=False)

    def _lay_out(self) -> None:
        for part in ("etc", "run", "state", "spool", "dev"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.etc / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        for name, text in conf.files(self.shape, self.folder, socket.gethostname()).items():
            (self.etc / name).write_text(text)
        (self.etc / "slurmdbd.conf").chmod(0o600)  # slurmdbd insists
        for number in range(self.shape.gpus):
            try:
                os.mknod(self.folder / "dev" / f"gpu{number}", 0o666 | stat.S_IFCHR, NULL_DEVICE)
            except PermissionError as error:
                raise packages.Unavailable(f"no device can be made here: {error}") from None

    def _start_munge(self) -> None:
        run, etc = self.run_folder, self.etc
        paths = {
            "socket": "munge.sock",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munged.seed",
        }
        options = [f"--{option}={run / name}" for option, name in paths.items()]
        self.daemons.start("munged", ["munged", "--foreground", f"--key-file={etc / 'munge.key'}", *options])
        wait_until(lambda: _succeeds("munge", "-n", "-S", str(run / "munge.sock")), 10, "munged")

    def _start_accounting(self) -> None:
        """MariaDB and slurmdbd. Without them submitit cannot tell a cancelled job from a waiting one."""
        data, home = self.folder / "mysql", self.run_folder / "mysql"
        for folder in (data, home):
            folder.mkdir()
            shutil.chown(folder, "mysql", "mysql")
        where = [f"--datadir={data}", "--user=mysql"]
        _run(
            [
                "mariadb-install-db",
                "--no-defaults",
                *where,
                "--skip-test-db",
                "--auth-root-authentication-method=socket",
            ]
        )
        small = [
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=48M",
            "--innodb-lock-wait-timeout=900",
        ]
        place = ["--skip-networking", f"--socket={home / 'sock'}", f"--pid-file={home / 'pid'}"]
        self.daemons.start("mariadbd", ["mariadbd", "--no-defaults", *where, *place, *small])
        client = ["mariadb", "--no-defaults", "-S", str(home / "sock"), "-e"]
        wait_until(lambda: _succeeds(*client, "select 1"), 30, "mariadbd")
        _run(
            [
                *client,
                "create database slurm_acct_db; create user slurm@localhost identified by 'slurm'; "
                "grant all on slurm_acct_db.* to slurm@localhost;",
            ]
        )
        self.daemons.start(
            "slurmdbd", ["slurmdbd", "-D"], MYSQL_UNIX_PORT=str(home / "sock"), **self.variables
        )
        wait_until(lambda: self._answers("sacctmgr", "-n", "list", "cluster"), 30, "slurmdbd")
        self.ask("sacctmgr", "-i", "add", "cluster", self.shape.name)

    def _start_slurm(self) -> None:
        self.daemons.start(
            "slurmctld", ["slurmctld", "-D", "-f", str(self.etc / "slurm.conf")], **self.variables
        )
        wait_until(lambda: "UP" in self.ask("scontrol", "ping", check=False), 20, "slurmctld")
        for number in range(1, self.shape.nodes + 1):
            self.start_node(number)
        wait_until(lambda: len(self.states()) == self.shape.nodes, 30, "the nodes")

    def start_node(self, number: int) -> None:
        """slurmd with a host name and a network of its own."""
        name = network.node(number)
        (self.folder / "spool" / name).mkdir(exist_ok=True)
        enter = f"nsenter --net=/run/netns/{network.namespace(number)}"
        inside = f"hostname {name} && exec {enter} slurmd -D -N {name}"
        self.daemons.start(f"slurmd-{name}", ["unshare", "--uts", "sh", "-c", inside], **self.variables)

    # ---- asking it

    def states(self) -> dict[str, str]:
        """node -> state, of the nodes that work."""
        said = self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False)
        pairs = dict(line.split() for line in said.splitlines())
        return {node: state for node, state in pairs.items() if state in READY}

    def ask(self, *command: str, check: bool = True, seconds: float = 30.0, **more: str) -> str:
        """What a client command prints. Raises CalledProcessError with its stderr, or TimeoutExpired."""
        return _run(command, {**os.environ, **self.variables, **more}, check=check, seconds=seconds)

    def _answers(self, *command: str) -> bool:
        return _succeeds(*command, **self.variables)


@contextmanager
def lent() -> Iterator[Cluster]:
    """A running cluster, for one user at a time. One that was started by hand is used, and left running.

    Raises packages.Unavailable with the reason why there is none.
    """
    packages.allowed()
    cluster = Cluster()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        by_hand = (FOLDER / BY_HAND).exists() and cluster.is_up()
        if not by_hand:
            cluster.start()
        try:
            yield cluster
        finally:
            if not by_hand:
                cluster.stop()


def _succeeds(*command: str, **variables: str) -> bool:
    try:
        _run(command, {**os.environ, **variables}, seconds=5)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def _run(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    check: bool = True,
    seconds: float = 60.0,
) -> str:
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout
