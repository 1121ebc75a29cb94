"""Everything that is said to Slurm: sbatch's arguments as plain data, and the few commands that are run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1mega.config.cluster import Cluster
from r1mega.types import UserError

PATIENCE = 60  # seconds that a command of Slurm may take: its controller is busy at times
SALLOC_CPUS = "SLURM_JOB_CPUS_PER_NODE"  # such as 96(x2); all that salloc tells
WAITING_GB = 1  # what the scripts' own #SBATCH lines ask for: enough to wait for the real job
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
INHERITED = re.compile("SLURM_|SLURMD_|SRUN_|SBATCH_EXPORT$|SBATCH_.*BIND")  # variables of a job
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "BOOT_FAIL"}
"""States from which a job does not come back. NODE_FAIL and PREEMPTED are requeued."""


@dataclass(frozen=True)
class Allocation:
    """What Slurm gave to the job that this process belongs to.

    gpus, cpus: on its first node. memory_mb: on each, None where Slurm does not say. hosts: as Slurm writes
    lists, node[1-4].
    """

    job: str
    nodes: int
    gpus: int
    cpus: int
    partition: str = ""
    account: str = ""
    qos: str = ""
    restarts: int = 0
    hosts: str = ""
    memory_mb: int | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Allocation | None:
        """None outside of a job."""
        if "SLURM_JOB_ID" not in env:
            return None
        visible = env.get("SLURM_JOB_GPUS") or env.get("CUDA_VISIBLE_DEVICES") or ""
        return cls(
            job=env["SLURM_JOB_ID"],
            nodes=int(env.get("SLURM_JOB_NUM_NODES", "1")),
            gpus=int(env.get("SLURM_GPUS_ON_NODE") or len([one for one in visible.split(",") if one])),
            cpus=int(env.get("SLURM_CPUS_ON_NODE") or re.split(r"\D", env.get(SALLOC_CPUS, "1"))[0]),
            partition=env.get("SLURM_JOB_PARTITION", ""),
            account=env.get("SLURM_JOB_ACCOUNT", ""),
            qos=env.get("SLURM_JOB_QOS", ""),
            restarts=int(env.get("SLURM_RESTART_COUNT", "0")),
            hosts=env.get("SLURM_JOB_NODELIST", ""),
            memory_mb=int(env["SLURM_MEM_PER_NODE"]) if "SLURM_MEM_PER_NODE" in env else None,
        )


def mismatches(have: Allocation, cluster: Cluster, nodes: int, seconds: int | None = None) -> list[str]:
    """Where an allocation falls short of what the cluster file asks for, in words. Pure.

    nodes: that the ranks need. seconds: the allocation's time limit, None where it has none or nobody asked.
    More than was asked for is no mismatch.
    """
    want = cluster.nodes
    found = []
    if have.nodes < nodes:
        found.append(f"{have.nodes} of {nodes} nodes")
    if want.ask_gpus_by != "nothing" and have.gpus < want.gpus:
        found.append(f"{have.gpus} of {want.gpus} GPUs a node")
    if want.cpus is not None and have.cpus < want.cpus:
        found.append(f"{have.cpus} of {want.cpus} CPUs a node")
    if have.memory_mb is not None and 0 < have.memory_mb < 1024 * (want.memory_gb or WAITING_GB + 1):
        found.append(f"{have.memory_mb} MB of memory a node")
    for name in ("partition", "account", "qos"):
        asked, given = getattr(cluster.slurm, name), getattr(have, name)
        if asked and given and given not in asked.split(","):
            found.append(f"{name} {given} instead of {asked}")
    if seconds is not None and cluster.slurm.seconds is not None and seconds < cluster.slurm.seconds:
        found.append(f"a time limit of {seconds // 60} min instead of {cluster.slurm.seconds // 60}")
    return found


def directives(
    cluster: Cluster,
    *,
    nodes: int,
    name: str,
    log: Path | str,
    dependency: Sequence[str] = (),
    array: str = "",
) -> list[str]:
    """sbatch's arguments for a job of so many nodes: all that the cluster file says. Pure.

    log: %j stands for the job's number, %A_%a for an array's. dependency: such as "afterok:4711".
    """
    want, slurm = cluster.nodes, cluster.slurm
    options: list[tuple[str, str | int | None]] = [
        ("job-name", name),
        ("nodes", nodes),
        ("ntasks", nodes),
        ("ntasks-per-node", 1),
        ("cpus-per-task", want.cpus),
        ("mem", None if want.memory_gb is None else f"{want.memory_gb}G" if want.memory_gb else 0),
        ("partition", slurm.partition),
        ("account", slurm.account),
        ("qos", slurm.qos),
        ("constraint", slurm.constraint),
        ("time", slurm.time),
        ("signal", f"B:USR1@{slurm.stop_before}"),
        ("output", str(log)),
        ("open-mode", "append"),
        ("array", array or None),
        ("dependency", ",".join(dependency) or None),
        ("kill-on-invalid-dep", "yes" if dependency else None),
    ]
    arguments = [f"--{key}={value}" for key, value in options if value is not None]
    arguments += gpu_request(cluster)
    arguments += ["--exclusive"] if want.exclusive else []
    arguments += ["--requeue" if slurm.requeues else "--no-requeue"]
    return [*arguments, *slurm.extra]


def gpu_request(cluster: Cluster) -> list[str]:
    """How a job, and each step of it, asks for the GPUs of a node."""
    want = cluster.nodes
    if not want.gpus or want.ask_gpus_by == "nothing":
        return []
    kind = f"{want.gpu_type}:" if want.gpu_type else ""
    return [
        f"--gres=gpu:{kind}{want.gpus}"
        if want.ask_gpus_by == "gres"
        else f"--gpus-per-node={kind}{want.gpus}"
    ]


def sbatch(
    arguments: Sequence[str], command: Sequence[str] = (), *, extra: Mapping[str, str] | None = None
) -> str:
    """Submit and return the job's number. extra: environment variables of the job.

    command: what the job runs, where the arguments do not say it. It is wrapped, so that #SBATCH lines of a
    script, which ask for a small job, do not count.
    Raises UserError with what sbatch says where it refuses, as for more GPUs than the partition has.
    """
    test_only(arguments)
    wrapped = [f"--wrap=exec {shlex.join(command)}"] if command else []
    done = _run(["sbatch", "--parsable", *arguments, *wrapped], env=outside() | dict(extra or {}))
    if done.returncode:
        asked = " ".join(arguments)
        said = re.sub(r"sbatch: (error: )?", "", done.stderr.strip())
        raise UserError(f"Slurm refuses the job: {said}\nasked for: {asked}")
    return done.stdout.strip().splitlines()[-1].split(";")[0]


def test_only(arguments: Sequence[str]) -> None:
    """Ask Slurm whether it could ever run this, submit nothing: what no node can hold is queued for ever.

    Nodes that are down or reserved may come back, so their absence is no reason to refuse. Raises UserError
    with what Slurm says.
    """
    asked = [word for word in arguments if not word.startswith("--dependency")]
    done = _run(["sbatch", "--test-only", *asked, "--wrap", "true"], env=outside())
    if done.returncode and "(down, drained or reserved)" not in done.stderr:
        said = re.sub(r"(?m)^(sbatch|allocation failure): (error: )?", "", done.stderr.strip())
        raise UserError(
            f"Slurm cannot run this: {said}\nasked for: {' '.join(arguments)}\n"
            "sinfo -o '%P %D %c %m %G %l' shows what the partitions have"
        )


def scancel(job: str, *options: str) -> None:
    _run(["scancel", *options, job])


def requeue(job: str) -> str:
    """Put a running job back into the queue; what is wrong, or "". Slurm ends the caller's job with it."""
    return _wrong(["scontrol", "requeue", job])


def exclude(job: str, hosts: str) -> str:
    """Keep a pending job off these nodes, and off those that it keeps off already; what is wrong, or ""."""
    before = next(iter(show(job) or [{}])).get("ExcNodeList", "(null)")
    whole = hosts if before == "(null)" else f"{before},{hosts}"
    return _wrong(["scontrol", "update", f"JobId={job}", f"ExcNodeList={whole}"])


def _wrong(command: Sequence[str]) -> str:
    """Run it; what is wrong, or "". A site may have Slurm print to stderr when all is well."""
    done = _run(command)
    return (done.stderr.strip() or f"{shlex.join(command)}: {done.returncode}") if done.returncode else ""


def show(job: str) -> list[dict[str, str]] | None:
    """What scontrol tells of a job, an entry a task of an array; [] where Slurm has forgotten it.

    None where it does not answer now.
    """
    done = _run(["scontrol", "show", "job", "-o", job])
    if done.returncode:
        return [] if "Invalid job id" in done.stderr else None
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in done.stdout.splitlines() if "JobId=" in line]


def wanted(job: str) -> bool:
    """Whether Slurm takes a running job to go on: it is not being cancelled, requeued or out of time.

    Where Slurm does not answer: true. It will refuse what follows from that where it must.
    """
    return state_of(job, show(job)) in (None, "RUNNING")


def state_of(job: str, found: Sequence[Mapping[str, str]] | None) -> str | None:
    """The state of a job or a task of an array, by its own number. None: Slurm does not answer. Pure.

    An array's last task has the array's own number, for which `show` tells of all tasks.
    """
    if found is None:
        return None
    return next((one.get("JobState", "") for one in found if one.get("JobId") == job), "")


def listed(jobs: Collection[str]) -> dict[str, str] | None:
    """Those of the jobs that wait or run, by their own numbers (no ARRAY_TASK), with their states.

    None where Slurm does not answer, or is not here.
    """
    if shutil.which("squeue") is None:
        return None
    done = _run(["squeue", "--noheader", "--array", f"--jobs={','.join(jobs)}", "--format=%A %T"])
    if done.returncode:
        return {} if "Invalid job id" in done.stderr else None
    return dict(line.split() for line in done.stdout.splitlines() if line)


def time_left(job: str, env: Mapping[str, str] = os.environ) -> int | None:
    """Seconds until a running job's time limit; None where it has none, or nobody tells.

    Within the job its environment tells, also when Slurm does not answer.
    """
    if env.get("SLURM_JOB_ID") == job and env.get("SLURM_JOB_END_TIME", "").isdigit():
        return int(env["SLURM_JOB_END_TIME"]) - int(time.time())
    return seconds_of(_run(["squeue", "--noheader", f"--jobs={job}", "--format=%L"]).stdout.strip())


def time_limit(job: str) -> int | None:
    """Seconds that Slurm has given a job; None where it has no limit."""
    return seconds_of(_run(["squeue", "--noheader", f"--jobs={job}", "--format=%l"]).stdout.strip())


def hosts_of(nodelist: str) -> tuple[str, ...]:
    """node[1-2] -> (node1, node2)."""
    return tuple(_run(["scontrol", "show", "hostnames", nodelist]).stdout.split())


def seconds_of(limit: str) -> int | None:
    """Slurm's [DAYS-][[HH:]MM:]SS -> seconds; None for UNLIMITED and the like."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in [*parts, days or "0"]):
        return None
    if days:  # then the first number is hours
        parts += ["0"] * (3 - len(parts))
    hours, minutes, seconds = [0] * (3 - len(parts)) + [int(part) for part in parts]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def outside(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what a surrounding job has put there: it would win over sbatch's defaults.

    What a person sets for all their jobs stays, such as SBATCH_ACCOUNT.
    """
    return {name: value for name, value in env.items() if name in KEPT or not INHERITED.match(name)}


def require() -> None:
    """Raises UserError where Slurm's commands are missing."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no sbatch on this machine: run this where the cluster's jobs are submitted, or say "
            "--cluster local to run it here"
        )


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
        )
    except FileNotFoundError:
        require()
        raise
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} did not answer in {PATIENCE} s")
