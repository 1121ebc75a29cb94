"""A network namespace a node: each has an address of its own, so a wrong rendezvous address shows.

On one shared address every node would answer to every name, and a job whose ranks look for each other in the
wrong place would work all the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.slurm.packages import Unavailable

BRIDGE = "r1mega0"
NET = "10.213.77"
CONTROLLER = f"{NET}.254"
HOSTS = Path("/etc/hosts")
MARK = "# r1mega tests/slurm"


def node(number: int) -> str:
    return f"tnode{number}"


def address(number: int) -> str:
    return f"{NET}.{number}"


def namespace(number: int) -> str:
    return f"r1mega{number}"


def up(nodes: int) -> None:
    """Bridge, namespaces and names. Raises Unavailable where the kernel or the container forbids it."""
    if f"{NET}." in _ip("route"):
        raise Unavailable(f"{NET}.0/24 is in use on this machine")
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{CONTROLLER}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for number in range(1, nodes + 1):
            _join(number)
    except subprocess.CalledProcessError as error:
        down()
        raise Unavailable(f"no network namespaces here: {error.stderr.strip()}") from None
    names = [f"{address(number)} {node(number)} {MARK}" for number in range(1, nodes + 1)]
    _write_hosts([*_own_hosts(), *names])


def _join(number: int) -> None:
    inside, outside = namespace(number), f"{BRIDGE}v{number}"
    _ip("netns", "add", inside)
    _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", inside)
    _ip("link", "set", outside, "master", BRIDGE, "up")
    _ip("-n", inside, "addr", "add", f"{address(number)}/24", "dev", "eth0")
    _ip("-n", inside, "link", "set", "eth0", "up")
    _ip("-n", inside, "link", "set", "lo", "up")


def down() -> None:
    """Take away all of it, with whatever still runs inside: a namespace of ours holds nothing else."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.removeprefix("r1mega").isdigit():
            for pid in _ip("netns", "pids", name).split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            _ip("netns", "del", name)
    if f" {BRIDGE}:" in _ip("link"):
        _ip("link", "del", BRIDGE)
    _write_hosts(_own_hosts())


def _own_hosts() -> list[str]:
    return [line for line in HOSTS.read_text().splitlines() if not line.endswith(MARK)]


def _write_hosts(lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    if text != HOSTS.read_text():
        HOSTS.write_text(text)  # in place: in a container the file is mounted and cannot be replaced


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout
