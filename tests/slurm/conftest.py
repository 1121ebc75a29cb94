"""One cluster for all tests of this folder: from the first one that asks for it to the last one here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.slurm import runs
from tests.slurm.cluster import Cluster, lent
from tests.slurm.packages import ASKED, Unavailable


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A running cluster, with its settings in this process's environment; skipped where there can be none."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
            patch.delenv(name)  # of a job or a site that the tests themselves run in
        try:
            found = stack.enter_context(lent())
        except Unavailable as reason:
            pytest.skip(f"no Slurm: {reason}")
        except (TimeoutError, subprocess.SubprocessError) as error:
            if ASKED in os.environ:  # somebody counts on it; CI takes what its machine can do
                raise
            pytest.skip(f"no Slurm, since it does not come up here: {error}")
        for name, value in found.variables.items():
            patch.setenv(name, value)
        patch.chdir(runs.ROOT)  # where configs/clusters and slurm/ are found
        yield found


@pytest.fixture(scope="package")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over two nodes: what every disturbed one must come to.

    Submitted as a person would, with sbatch: the script finds that one node is too few, submits the real job,
    waits for it and ends as it does.
    """
    folder = tmp_path_factory.mktemp("undisturbed")
    words = ["--cluster", "test", str(runs.config(folder)), f"out={folder / 'out'}", *runs.LENGTH]
    done = runs.script(*words, how=f"sbatch --wait --output={folder / 'log'}")
    assert done.returncode == 0, (folder / "log").read_text()
    return folder / "out"
