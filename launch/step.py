"""The command that runs on each node: srun, the container, the modules. Pure."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.slurm import gpu_request
from r1mega.config.cluster import Cluster


def step(
    cluster: Cluster, *, nodes: int, cpus: int, arguments: Sequence[str], folders: Sequence[Path]
) -> list[str]:
    """srun's command line for one process a node.

    arguments: of python. folders: what the process must see, absolute; the first is where it starts.
    """
    command = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    command += [f"--cpus-per-task={cpus}", *gpu_request(cluster), "--export=ALL", "--wait=0", "--mpi=none"]
    # A node that fails tells the job, which lets the others end in order and asks who began it.
    command += ["--kill-on-bad-exit=0", f"--chdir={folders[0]}"]
    return [*command, *_pyxis(cluster, folders), *_modules(cluster), *_apptainer(cluster, folders),
            python(cluster), *arguments]  # fmt: skip


def python(cluster: Cluster) -> str:
    """The interpreter on the nodes."""
    if cluster.environment.python is not None:
        return cluster.environment.python
    return sys.executable if cluster.container.kind == "none" else "python3"


def environment(cluster: Cluster) -> dict[str, str]:
    """What the cluster file puts into the ranks' environment."""
    interface = cluster.network.interface
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") if interface is not None else ()
    return dict.fromkeys(names, interface or "") | cluster.network.nccl | cluster.environment.variables


def _mounts(cluster: Cluster, folders: Sequence[Path]) -> list[str]:
    return [*dict.fromkeys([*(f"{one}:{one}" for one in folders), *cluster.container.mounts])]


def _pyxis(cluster: Cluster, folders: Sequence[Path]) -> list[str]:
    box = cluster.container
    if box.kind != "pyxis":
        return []
    return [
        f"--container-image={box.image}",
        f"--container-mounts={','.join(_mounts(cluster, folders))}",
        f"--container-workdir={folders[0]}",
        *box.options,
    ]


def _apptainer(cluster: Cluster, folders: Sequence[Path]) -> list[str]:
    box = cluster.container
    if box.kind != "apptainer":
        return []
    gpus = ["--nv"] if cluster.nodes.gpus else []
    binds = [f"--bind={one}" for one in _mounts(cluster, folders)]
    return ["apptainer", "exec", *gpus, *binds, f"--pwd={folders[0]}", *box.options, str(box.image)]


def _modules(cluster: Cluster) -> list[str]:
    """A login shell has the `module` function; it becomes the command that follows."""
    if not cluster.environment.modules:
        return []
    return ["bash", "-lc", f'module load {shlex.join(cluster.environment.modules)} && exec "$@"', "bash"]
