"""Asks Slurm whether it could ever run a job. Without that, sbatch queues what no node can hold, for ever."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from launch import slurm
from r1mega.config.cluster import Cluster
from r1mega.types import UserError


def test_only(asked: Sequence[str], site: Cluster) -> None:
    """Ask Slurm whether it could ever run this, submit nothing. Raises UserError with what it says."""
    command = ["sbatch", "--test-only", *asked, "--wrap", "true"]
    done = subprocess.run(
        command, env=slurm.outside(), capture_output=True, text=True, timeout=slurm.PATIENCE, check=False
    )
    if done.returncode:
        said = re.sub(r"(?m)^(sbatch|allocation failure): (error: )?", "", done.stderr.strip())
        raise UserError(
            f"Slurm cannot run this on cluster {site.name}: {said}\nasked for: {' '.join(asked)}\n"
            "sinfo -o '%P %D %c %m %G %l' shows what the partitions have"
        )
