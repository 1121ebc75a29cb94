"""Debian's packages of Slurm: are they there, and how they get there where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "ip": "iproute2",
    "unshare": "util-linux",
}
"""program -> the package that has it. Debian 12 has Slurm 22.05."""
PLUGIN = "slurm-wlm-mysql-plugin"  # slurmdbd's door to MariaDB; a library, so no program tells
ASKED = "R1MEGA_TEST_SLURM"
NO_START = Path("/usr/sbin/policy-rc.d")  # forbids the packages to start their own daemons


class Unavailable(Exception):
    """Why there can be no cluster on this machine."""


def allowed() -> None:
    """Raise Unavailable unless somebody wants a cluster here, and may have one.

    It takes root, packages, a bridge and lines in /etc/hosts, so nobody gets it unasked: CI does, and whoever
    sets R1MEGA_TEST_SLURM=1.
    """
    asked = os.environ.get(ASKED, "").lower()
    if asked in ("0", "false", "no"):
        raise Unavailable(f"{ASKED}={asked}")
    if not asked and os.environ.get("CI", "").lower() not in ("1", "true", "yes"):
        raise Unavailable(
            f"set {ASKED}=1 to have a Slurm cluster on this machine for the time of the tests: as root, "
            "with packages from apt where they are missing, a bridge, and names in /etc/hosts"
        )
    if os.geteuid() != 0:
        raise Unavailable("only root can start Slurm's daemons and network namespaces")


def missing() -> list[str]:
    """The packages that are not installed."""
    found = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    plugins = Path("/usr/lib").glob("*/slurm*/accounting_storage_mysql.so")
    return sorted(found | (set() if any(plugins) else {PLUGIN}))


def install(log: Path) -> None:
    """Install what is missing. Raises Unavailable where apt cannot."""
    wanted = missing()
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise Unavailable(f"{', '.join(wanted)} missing, and there is no apt-get to install them with")
    forbidden = not NO_START.exists()
    if forbidden:
        NO_START.write_text("#!/bin/sh\nexit 101\n")
        NO_START.chmod(0o755)
    try:
        done = _apt("install", *wanted, log=log) or (
            _apt("update", log=log) and _apt("install", *wanted, log=log)
        )
    finally:
        if forbidden:
            NO_START.unlink()
    if not done or missing():
        raise Unavailable(f"apt-get could not install {', '.join(missing())}; its output is in {log}")


def _apt(verb: str, *packages: str, log: Path) -> bool:
    options = ["-y", "--no-install-recommends"] if packages else []
    with log.open("ab") as out:
        done = subprocess.run(
            ["apt-get", "-q", verb, *options, *packages],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            timeout=600,
            check=False,
        )
    return done.returncode == 0
