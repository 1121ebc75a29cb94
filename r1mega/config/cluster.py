"""A cluster file: all that a site decides, and nothing that a run does. configs/clusters/NAME.toml.

Pure: from these values `launch.slurm` makes sbatch's arguments and `launch.step` the command of each node.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator, model_validator

from r1mega.config.section import Section
from r1mega.types import UserError

FOLDER = Path("configs/clusters")
DEFAULT = "R1MEGA_CLUSTER"
"""Environment variable: the cluster where --cluster is not given."""
TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")


class Nodes(Section):
    """What one node has, and how much of it a job takes."""

    ranks: PositiveInt = Field(description="ranks on a node: one a GPU; on CPU as many as its memory holds")
    gpus: NonNegativeInt = Field(default=0, description="GPUs that a job takes on a node; 0: CPU only")
    gpu_type: str | None = Field(default=None, description="as in --gres=gpu:TYPE:N; none: any")
    ask_gpus_by: Literal["gres", "gpus-per-node", "nothing"] = Field(
        default="gres", description="how the site wants GPUs asked for; nothing: the partition implies them"
    )
    cpus: PositiveInt | None = Field(
        default=None, description="CPUs that a job takes on a node; none: all, as with exclusive"
    )
    memory_gb: NonNegativeInt | None = Field(
        default=None, description="GB that a job takes on a node; 0: all; none: the site's default"
    )
    exclusive: bool = Field(default=True, description="no other job on the nodes")

    @model_validator(mode="after")
    def _a_gpu_a_rank(self) -> Self:
        if self.gpus and self.ranks > self.gpus:
            raise ValueError(f"ranks = {self.ranks} on {self.gpus} GPUs: a rank takes a GPU of its own")
        if self.cpus is None and not self.exclusive:
            raise ValueError("cpus is missing: say how many a job takes, or exclusive = true")
        return self


class Slurm(Section):
    """What sbatch is told beyond the nodes."""

    partition: str | None = Field(default=None, description="--partition; none: the site's default")
    account: str | None = Field(default=None, description="--account")
    qos: str | None = Field(default=None, description="--qos")
    constraint: str | None = Field(default=None, description="--constraint, such as a kind of node")
    time: str | None = Field(
        default=None, description="--time, as [DAYS-]HH:MM:SS; none: the partition's default"
    )
    extra: tuple[str, ...] = Field(
        default=(), strict=False, description="more arguments of sbatch, such as --reservation=NAME"
    )
    stop_before: PositiveInt = Field(
        default=600,
        description="seconds before the time limit at which a job keeps a checkpoint and requeues itself: "
        "longer than one step and one checkpoint take",
    )
    requeues: NonNegativeInt = Field(
        default=1000, description="how often one job may come back by itself; 0: never"
    )

    @field_validator("time")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        if value is not None and not TIME.fullmatch(value):
            raise ValueError(f"'{value}': say [DAYS-]HH:MM:SS, such as 24:00:00")
        return value

    @field_validator("extra")
    @classmethod
    def _are_arguments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [one for one in value if not one.startswith("-")]:
            raise ValueError(f"'{wrong[0]}': an argument of sbatch, such as --reservation=NAME")
        return value

    @model_validator(mode="after")
    def _stops_in_time(self) -> Self:
        if self.seconds is not None and self.stop_before >= self.seconds:
            raise ValueError(f"stop_before = {self.stop_before}: not before the time limit of {self.time}")
        return self

    @property
    def seconds(self) -> int | None:
        """The time limit."""
        found = TIME.fullmatch(self.time) if self.time is not None else None
        if found is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class Environment(Section):
    """What is set up on each node before the ranks start."""

    modules: tuple[str, ...] = Field(
        default=(), strict=False, description="what `module load` loads, in order"
    )
    variables: dict[str, str] = Field(default={}, description="environment variables of every rank")
    python: str | None = Field(
        default=None,
        description="the interpreter on the nodes (in the container, where there is one); none: the one that "
        "submits",
    )


class Container(Section):
    """The image in which the ranks run."""

    kind: Literal["none", "pyxis", "apptainer"] = Field(
        default="none", description="pyxis: srun's plug-in for enroot; apptainer: also singularity"
    )
    image: str | None = Field(default=None, description="a .sqsh or .sif file, or what the runtime can pull")
    mounts: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="HOST:CONTAINER folders besides this repository and the run's folder",
    )
    options: tuple[str, ...] = Field(
        default=(), strict=False, description="more arguments of srun (pyxis) or of apptainer exec"
    )

    @model_validator(mode="after")
    def _has_an_image(self) -> Self:
        if (self.kind == "none") != (self.image is None):
            raise ValueError("kind and image go together: give both or neither")
        return self


class Network(Section):
    """How the nodes reach each other."""

    interface: str | None = Field(
        default=None,
        description="network interface of the rendezvous, gloo and NCCL's sockets, such as ib0; none: that "
        "over which the nodes reach each other's names",
    )
    nccl: dict[str, str] = Field(
        default={}, description="NCCL_... variables, as the site advises; no other is set"
    )

    @field_validator("nccl")
    @classmethod
    def _is_nccl(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.startswith("NCCL_"):
                raise ValueError(f"'{name}' is no variable of NCCL: those of others go into environment")
        return value


class Cluster(Section):
    """A site. name: of its file."""

    name: str = Field(description="the file's name")
    description: str = Field(description="one line, for people")
    scheduler: Literal["slurm", "none"] = Field(
        default="slurm", description="none: jobs are run here and now, on this machine"
    )
    scratch: str | None = Field(
        default=None,
        description="a folder that all nodes share; runs go to SCRATCH/NAME unless the config says out. "
        "~ and $VARIABLES are filled in. none: runs/NAME",
    )
    hang_minutes: float = Field(
        default=60.0, gt=0, description="a rank that shows no sign of life for so long is taken to hang"
    )
    nodes: Nodes
    slurm: Slurm = Slurm()
    environment: Environment = Environment()
    container: Container = Container()
    network: Network = Network()

    def nodes_for(self, ranks: int) -> int:
        """Nodes that hold so many ranks."""
        return -(-ranks // self.nodes.ranks)

    def scratch_folder(self) -> Path | None:
        """Raises UserError where it names a variable that is not set."""
        if self.scratch is None:
            return None
        filled = os.path.expandvars(os.path.expanduser(self.scratch))
        if "$" in filled:
            raise UserError(f"cluster {self.name}: scratch = '{self.scratch}': a variable in it is not set")
        return Path(filled)


def cluster_names(folder: Path = FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_cluster(name: str | None, folder: Path = FOLDER) -> Cluster:
    """The cluster of that name, or of the file of that path, or of $R1MEGA_CLUSTER.

    Raises UserError for one that does not exist and for every mistake in the file.
    """
    given = name or os.environ.get(DEFAULT)
    known = ", ".join(cluster_names(folder)) or f"none in {folder}"
    if not given:
        raise UserError(f"which cluster? say --cluster NAME or set {DEFAULT}; clusters: {known}")
    path = Path(given) if given.endswith(".toml") else folder / f"{given}.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no cluster '{given}'; clusters: {known} (each is a file in {folder})") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read the cluster file {path}: {error}") from None
    try:
        return Cluster.model_validate({"name": path.stem, **document})
    except ValidationError as error:
        lines = [_complaint(dict(item)) for item in error.errors(include_url=False)]
        raise UserError("\n  ".join([f"{path}: {lines[0]}", *lines[1:]])) from None


def _complaint(item: dict[str, object]) -> str:
    """One of pydantic's findings in words, with the nearest known key."""
    location = item["loc"]
    assert isinstance(location, tuple)
    *tables, last = map(str, location or ("",))
    key = ".".join([*tables, last])
    if item["type"] == "missing":
        return f"{key} is missing"
    if item["type"] != "extra_forbidden":
        text = str(item["msg"]).removeprefix("Value error, ").replace("Input should", "should")
        return f"{key}: {text}" if key else text
    section = type(Cluster.model_fields[tables[0]].default) if tables else Cluster
    section = Nodes if tables == ["nodes"] else section
    known = sorted(section.model_fields)
    near = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
    home = [name for name, field in Cluster.model_fields.items() if last in _keys(field.annotation)]
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
    hint = f"it belongs into [{home[0]}]" if home else hint
    return f"unknown key '{last}'{f' in [{tables[0]}]' if tables else ''}; {hint}"


def _keys(annotation: object) -> tuple[str, ...]:
    known = isinstance(annotation, type) and issubclass(annotation, Section)
    return tuple(annotation.model_fields) if known else ()  # type: ignore[attr-defined]
