"""How the supervisors of several nodes talk to their job, what they leave, and what it concludes."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch.address import address_for
from launch.agent import Ended
from launch.batch import lost_nodes, read_words
from launch.control import TOKEN, Head, Node
from launch.ends import NodeEnd, conclude
from launch.node import gpus
from launch.records import ended, record
from launch.worker import Report
from r1mega.report.jobs import jobs_file, read_jobs
from r1mega.types import UserError

SEES_US = "import os, sys; sys.path.insert(0, os.getcwd())\n"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(TOKEN, "secret")
    return "secret"


def soon(condition: threading.Event) -> bool:
    return condition.wait(20)


def join(head: Head, node: int, port: int = 0) -> tuple[Node, threading.Event]:
    stopped = threading.Event()
    return Node(("127.0.0.1", head.port), node, port, stopped.set), stopped


def leave(node: Node, code: int) -> threading.Thread:
    thread = threading.Thread(target=node.ended, args=(code,))
    thread.start()
    return thread


def test_nodes_learn_the_stores_port_and_leave_together(token: str) -> None:
    head = Head(3, token)
    late, _ = join(head, 2)
    first, stopped = join(head, 0, port=4711)
    other, _ = join(head, 1)
    assert [one.meet() for one in (first, other, late)] == [4711, 4711, 4711]
    waits = [leave(first, 0), leave(other, 0)]
    time.sleep(0.1)
    assert all(one.is_alive() for one in waits)  # the store must outlive every node's ranks
    waits.append(leave(late, 0))
    for one in waits:
        one.join(20)
    assert not any(one.is_alive() for one in waits) and head.order == [] and not stopped.is_set()


def test_a_failing_node_stops_the_others(token: str) -> None:
    head = Head(2, token)
    (one, first), (two, second) = join(head, 0, 1), join(head, 1)
    waits = [leave(two, 1)]
    assert soon(first)
    waits.append(leave(one, 1))
    for thread in waits:
        thread.join(20)
    assert head.order == [1, 0] and not any(thread.is_alive() for thread in waits)
    assert second.is_set()


def test_a_stop_reaches_nodes_that_come_later(token: str) -> None:
    head = Head(2, token)
    _, early = join(head, 0, 1)
    head.stop()
    assert soon(early)
    _, late = join(head, 1)
    assert soon(late)


def test_a_supervisor_that_is_killed_stops_the_others(token: str) -> None:
    head = Head(2, token)
    node, stopped = join(head, 0, 1)
    code = "from launch.control import Node; Node(('127.0.0.1', int(input())), 1, 0, print).meet(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", SEES_US + code], stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write(f"{head.port}\n")
        process.stdin.flush()
        while 1 not in head._lines:
            time.sleep(0.01)
        process.kill()
    assert soon(stopped) and head.order == [1] and head.gone == {1}
    assert node.meet() == 1


def test_a_job_that_is_gone_stops_its_nodes(token: str) -> None:
    code = "from launch.control import Head; head = Head(1, 'secret'); print(head.port, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", SEES_US + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        stopped = threading.Event()
        node = Node(("127.0.0.1", port), 0, 5, stopped.set)
        assert node.meet() == 5
        process.kill()
    assert soon(stopped)
    node.ended(130)  # nobody to wait for


def test_strangers_are_not_heard(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(1, token)
    with socket.create_connection(("127.0.0.1", head.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert stranger.makefile().read() == ""
    monkeypatch.setenv(TOKEN, "wrong")
    _, stopped = join(head, 0)
    assert soon(stopped) and head._lines == {} and head.order == []


def test_what_a_node_leaves_is_read_back(tmp_path: Path) -> None:
    reports = {3: Report(3, 1, "error: x", "Traceback", 1.5)}
    end = NodeEnd.of(1, "n2", Ended({2: 0, 3: 1}, (3,)), reports)
    end.write(tmp_path)
    assert NodeEnd.read(tmp_path, 1) == end and end.failed
    assert NodeEnd.read(tmp_path, 0) is None


def node(
    number: int,
    codes: dict[int, int | None],
    order: tuple[int, ...] = (),
    stopped: bool = False,
    reports: Sequence[Report] = (),
) -> NodeEnd:
    return NodeEnd(number, f"n{number}", codes, order, stopped, tuple(reports))


def test_all_well() -> None:
    assert conclude([node(0, {0: 0, 1: 0}), node(1, {2: 0, 3: 0})], {}).code == 0


def test_the_rank_that_began_it_is_named_with_its_node() -> None:
    lost = Report(0, 1, "error: connection reset", "", 2.0)
    ends = [node(0, {0: 1, 1: -15}, (0,), reports=[lost]), node(1, {2: -9, 3: -15}, (2,))]
    outcome = conclude(ends, {}, first=[0, 1])
    assert outcome.code == 1 and "rank 2 of 4 on n1 was killed by SIGKILL" in outcome.message
    boom = Report(3, 1, "error: ValueError: boom", "Traceback ...", 1.0)
    ends = [node(0, {0: 1, 1: -15}, (0,), reports=[lost]), node(1, {2: -15, 3: 1}, (3,), reports=[boom])]
    outcome = conclude(ends, {}, first=[0, 1])
    assert outcome.message == "error: rank 3 of 4 on n1 failed: ValueError: boom"
    assert outcome.details == "Traceback ..."


def test_a_node_that_was_stopped_for_another_is_not_an_interruption() -> None:
    ends = [node(0, {0: -9}, (0,)), node(1, {1: -2}, stopped=True)]
    outcome = conclude(ends, {}, first=[0, 1])
    assert outcome.code == 1 and "rank 0 of 2 on n0 was killed by SIGKILL" in outcome.message
    assert conclude([node(0, {0: -2}, stopped=True), ends[1]], {}).code == 130


def test_a_users_mistake_stays_one() -> None:
    told = [Report(rank, 2, "error: no such file", "", 1.0 + rank) for rank in range(2)]
    ends = [node(0, {0: 2}, (0,), reports=told[:1]), node(1, {1: 2}, (1,), reports=told[1:])]
    assert conclude(ends, {}) == conclude(ends[:1], {}) and conclude(ends, {}).code == 2


def test_a_node_that_left_no_word_is_to_blame_unless_the_job_was_stopped() -> None:
    lost = Report(0, 1, "error: connection reset", "", 2.0)
    ends = [node(0, {0: 1}, (0,), reports=[lost])]
    outcome = conclude(ends, {"n1": range(1, 2)}, first=[1, 0])
    assert outcome.code == 1 and "rank 1 of 2 on n1 was killed" in outcome.message
    kept = Report(0, 130, "interrupted at step 3 of 9, which is saved", "", 1.0)
    ends = [node(0, {0: 130}, stopped=True, reports=[kept])]
    assert conclude(ends, {}, stopping=True).code == 130
    assert conclude(ends, {}, stopping=True).message.startswith("interrupted at step 3")
    assert conclude(ends, {"n1": range(1, 2)}, stopping=True).code == 130


def test_ranks_that_are_killed_late_are_an_interruption_whatever_their_peers_say() -> None:
    lost = Report(0, 1, "error: connection closed by peer", "", 2.0)
    ends = [node(0, {0: 1, 1: 130}, (0,), reports=[lost]), node(1, {2: -9, 3: 130}, stopped=True)]
    outcome = conclude(ends, {}, stopping=True, grace=840)
    assert outcome.code == 130 and "rank 2 did not stop in 840 s" in outcome.message
    ends[1] = node(1, {2: -9, 3: 130}, (2,))  # it was dead before anybody was asked to stop
    assert conclude(ends, {}, stopping=True).code == 1


def test_nodes_that_are_lost() -> None:
    """A silent node is dead, unless somebody ended its supervisor."""
    assert lost_nodes([1, 2], {1}, stopping=False, late=False) == [1, 2]
    assert lost_nodes([1, 2], {1}, stopping=False, late=True) == [1]
    assert lost_nodes([1, 2], {1}, stopping=True, late=False) == []


def test_a_last_word_that_shows_late_is_waited_for(tmp_path: Path) -> None:
    end = node(1, {1: 0})
    writer = threading.Timer(0.3, end.write, (tmp_path,))
    writer.start()
    assert read_words(tmp_path, 2, {1}) == {1: end}
    assert read_words(tmp_path, 2, {1}) == {1: end}  # nobody has heard from node 0


@pytest.mark.parametrize(("says", "count"), [("printf 'GPU 0: x\\nGPU 1: y\\n'", 2), ("exec sleep 30", 0)])
def test_gpus_that_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, count: int) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{says}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpus(patience=1.0 if count == 0 else 30.0) == count


def test_a_jobs_story(tmp_path: Path) -> None:
    record(tmp_path, "7", "submitted", cluster="test", stages=("a", "b"), nodes=2, ranks=4, by="6")
    record(tmp_path, "7", "started", hosts=["n0", "n1"], restarts=0)
    [job] = read_jobs(tmp_path)
    assert (job.state, job.stages, job.hosts, job.nodes, job.by) == (
        "running",
        ("a", "b"),
        ("n0", "n1"),
        2,
        "6",
    )
    ended(tmp_path, "7", "requeued", 130, "interrupted at step 3")
    [job] = read_jobs(tmp_path)
    assert (job.state, job.code, job.live) == ("requeued", 130, True)
    record(tmp_path, "7", "started", hosts=["n2", "n1"], restarts=1)
    ended(tmp_path, "7", "done", 0, "")
    record(tmp_path, "8", "submitted")
    jobs = read_jobs(tmp_path)
    assert [(job.id, job.state, job.restarts) for job in jobs] == [("7", "done", 1), ("8", "submitted", 0)]
    with jobs_file(tmp_path).open("a") as file:
        file.write('{"job": "9", "eve')  # a power cut
    assert read_jobs(tmp_path) == jobs
    assert read_jobs(tmp_path / "none") == []


def _write(run: Path, number: int) -> None:
    for step in range(50):
        record(run, f"{number}-{step}", "submitted", log="x" * 500)


def test_jobs_that_write_at_once_do_not_mix(tmp_path: Path) -> None:
    writers = [
        multiprocessing.get_context("fork").Process(target=_write, args=(tmp_path, n)) for n in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = jobs_file(tmp_path).read_text().splitlines()
    assert len({json.loads(line)["job"] for line in lines}) == 150


def test_the_address_that_other_nodes_reach() -> None:
    assert address_for([], None) == "127.0.0.1"
    assert address_for(["localhost"], None) == "127.0.0.1"
    assert address_for(["localhost"], "lo") == "127.0.0.1"
    with pytest.raises(UserError, match=r"network\.interface = 'ib9'"):
        address_for([], "ib9")
    assert os.environ.get("GLOO_SOCKET_IFNAME") is None
