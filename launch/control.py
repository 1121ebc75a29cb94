"""What a job and its nodes' supervisors say to each other over a socket: who is there, stop, all have ended.

Not signals: Slurm sends those to every process of a step, and a rank or a grader's sandbox would take them
for its own. The head listens on a port that the kernel picks; each supervisor keeps one connection open. A
connection that breaks is news too: the supervisor, or the head, is gone.

    supervisor: {"token": ..., "node": 1, "port": 0}      port: of the ranks' store, from node 0
    head:       {"port": 40123}                           once node 0 is there
    supervisor: {"ended": 0}                              its ranks have; it waits for the others
    head:       {"stop": true} | {"leave": true}
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

TOKEN = "R1MEGA_CONTROL_TOKEN"
HELLO = 300.0  # seconds in which a supervisor finds the head, and the head node 0
ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 90_000}
"""Options of Linux, in seconds (the last in ms), by which a node that is switched off is noticed in 90 s."""


class Head:
    """The job's end. `stop()` asks all nodes to stop their ranks, those that come later too.

    When a node's ranks have failed, or a supervisor is gone, the others are asked to stop: they may wait for
    it for ever. When all have ended they are let go.
    """

    def __init__(self, nodes: int, token: str) -> None:
        self.nodes, self.token = nodes, token
        self.order: list[int] = []  # nodes that failed, first heard of first
        self._server = socket.create_server(("", 0), backlog=max(128, nodes))
        self.port: int = self._server.getsockname()[1]
        self.gone: set[int] = set()  # nodes whose supervisor broke off without a word
        self._lines: dict[int, _Line] = {}
        self._ended: set[int] = set()
        self._store: int | None = None
        self._stopping = False
        self._mutex = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with self._mutex:
            self._stopping = True
            self._tell({"stop": True})

    def close(self) -> None:
        self._server.close()

    @property
    def all_ended(self) -> bool:
        with self._mutex:
            return len(self._ended) == self.nodes

    @property
    def told(self) -> frozenset[int]:
        """Nodes that said how their ranks ended, and so have left word of it."""
        with self._mutex:
            return frozenset(self._ended - self.gone)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        line = _Line(connection)
        hello = line.read()
        if hello is None or hello.get("token") != self.token:
            connection.close()
            return
        node = int(hello["node"])
        with self._mutex:
            self._lines[node] = line
            if hello["port"]:
                self._store = int(hello["port"])
                self._tell({"port": self._store})
            elif self._store is not None:
                line.write({"port": self._store})
            if self._stopping:
                line.write({"stop": True})
        ended = line.read()
        with self._mutex:
            self._ended.add(node)
            if ended is None:
                self.gone.add(node)
            if ended is None or ended["ended"]:
                self.order.append(node)
                self._stopping = True
                self._tell({"stop": True})
            if len(self._ended) == self.nodes:
                self._tell({"leave": True})

    def _tell(self, message: dict[str, Any]) -> None:
        for line in self._lines.values():
            line.write(message)


class Node:
    """A supervisor's end. on_stop is called once, from another thread, when the head says so or is gone."""

    def __init__(
        self, head: tuple[str, int], node: int, store_port: int, on_stop: Callable[[], None]
    ) -> None:
        self._socket = socket.create_connection(head, timeout=HELLO)
        self._socket.settimeout(None)
        self.address: str = self._socket.getsockname()[0]
        self._line = _Line(self._socket)
        self._on_stop, self._stopped = on_stop, False
        self._port, self._leave = threading.Event(), threading.Event()
        self.store_port = store_port
        self._line.write({"token": os.environ[TOKEN], "node": node, "port": store_port})
        threading.Thread(target=self._listen, daemon=True).start()

    def meet(self) -> int:
        """The port of the ranks' store on node 0. TimeoutError when node 0 does not come."""
        if not self._port.wait(HELLO):
            raise TimeoutError(f"the first node's supervisor did not come within {HELLO:g} s")
        return self.store_port

    def ended(self, code: int) -> None:
        """Tell how the ranks of this node ended, and wait until those of all nodes have."""
        if self._line.write({"ended": code}):
            self._leave.wait()

    def _listen(self) -> None:
        while (message := self._line.read()) is not None:
            if "port" in message:
                self.store_port = message["port"]
                self._port.set()
            if "stop" in message:
                self._stop()
            if "leave" in message:
                self._leave.set()
        self._stop()
        self._leave.set()

    def _stop(self) -> None:
        if not (self._stopped or self._leave.is_set()):
            self._stopped = True
            self._on_stop()


def keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in ALIVE.items():
        if hasattr(socket, name):  # macOS lacks some
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Line:
    """Messages over a connection: one thread reads, any may write one after another."""

    def __init__(self, connection: socket.socket) -> None:
        keep_alive(connection)
        self._in = connection.makefile("r", encoding="utf-8")
        self._out = connection.makefile("w", encoding="utf-8")

    def read(self) -> dict[str, Any] | None:
        """The next message; None where the other end is gone, or talks something else."""
        try:
            text = self._in.readline()
            message = json.loads(text) if text else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def write(self, message: dict[str, Any]) -> bool:
        """Whether the other end was there. A broken connection is noticed by the reader."""
        with suppress(OSError):
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()
            return True
        return False
