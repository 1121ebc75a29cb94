"""A run of seconds on the cluster, the ways to disturb it, and what must be the same afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

from r1mega.report.jobs import Job, read_jobs
from tests.e2e.runs import config_file, outcome
from tests.slurm.cluster import Cluster
from tests.slurm.daemons import wait_until

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 400.0  # seconds for what takes twenty on an idle machine
STEPS = 150
"""Long enough for a signal to come in between; each step takes some hundredths of a second."""
LENGTH = (
    f"stages.base.train.steps={STEPS}",
    "stages.base.eval.every=50",
    "stages.base.checkpoint.every=40",
    "threads=1",
)


def config(folder: Path) -> Path:
    """A tiny V3-shaped model with experts on two ranks, which are two nodes of the cluster `test`."""
    folder.mkdir(parents=True, exist_ok=True)
    return config_file(folder)


def site(folder: Path, **changes: str) -> Path:
    """The cluster file `test` with other values: key -> TOML value, where the file has the key."""
    lines = (ROOT / "configs" / "clusters" / "test.toml").read_text().splitlines()
    for key, value in changes.items():
        [at] = [number for number, line in enumerate(lines) if line.startswith(f"{key} = ")]
        lines[at] = f"{key} = {value}"
    path = folder / "site.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def script(*words: str, name: str = "run.sh", how: str = "bash") -> subprocess.CompletedProcess[str]:
    """Call a script of slurm/: `bash` on the login node, or `sbatch --wait`."""
    return subprocess.run(
        [*how.split(), f"slurm/{name}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def submitted(folder: Path, out: Path, *words: str, cluster: str = "test") -> Job:
    """Submit the run from the login node."""
    done = script("--cluster", cluster, "--stage", "base", str(config(folder)), f"out={out}", *LENGTH, *words)
    assert done.returncode == 0, done.stderr
    return newest(out)


def newest(out: Path) -> Job:
    return read_jobs(out)[-1]


def steps(out: Path) -> int:
    log = out / "01-base" / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for_step(out: Path, step: int) -> None:
    wait_until(lambda: steps(out) >= step, PATIENCE, f"step {step} in {out}")


def state(cluster: Cluster, job: str) -> str:
    """Slurm's word for a job."""
    return field(cluster, job, "JobState")


def field(cluster: Cluster, job: str, name: str) -> str:
    words = cluster.ask("scontrol", "show", "job", "-o", job).split()
    return next(word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}="))


def wait_for_end(cluster: Cluster, job: str, seconds: float = PATIENCE) -> str:
    """Its state when it has ended for good."""
    ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    wait_until(lambda: state(cluster, job) in ends, seconds, f"the end of job {job}")
    return state(cluster, job)


def same(out: Path, reference: Path) -> None:
    """The same figures at every step, and the same bytes in the exported model."""
    assert outcome(out) == outcome(reference)
    ours, theirs = (sorted((one / "01-base" / "model").iterdir()) for one in (out, reference))
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert any(path.suffix == ".safetensors" for path in ours)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.read_bytes() == other.read_bytes(), mine.name


def preempt(cluster: Cluster, folder: Path, job: str) -> None:
    """A more urgent job takes the nodes of this one for some seconds; returns when it has them."""
    nodes = field(cluster, job, "NodeList")
    urgent = ["--partition=high", f"--nodelist={nodes}", "--exclusive", f"--output={folder / 'urgent'}"]
    other = cluster.ask("sbatch", "--parsable", *urgent, "--wrap=sleep 3").strip()
    begun = ("RUNNING", "COMPLETING", "COMPLETED")
    wait_until(lambda: state(cluster, other) in begun, PATIENCE, f"the start of job {other}")
