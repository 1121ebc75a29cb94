"""What a script under slurm/ is asked to do: which stages of which config, on how many ranks of a cluster."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from launch.checks import needed, refuse_layouts
from r1mega.config.cluster import DEFAULT, Cluster, load_cluster
from r1mega.config.load import load
from r1mega.config.schema import RunConfig
from r1mega.types import UserError

HELP = """\
examples:
  sbatch slurm/r1_stage2.sh --cluster h100x8                        its default config
  sbatch slurm/r1_stage2.sh --cluster h100x8 my.toml rl_reasoning.train.lr=1e-6
  bash slurm/r1_stage2.sh --cluster h100x8 my.toml                  submits from the login node
"""


@dataclass(frozen=True)
class Request:
    """script: the one under slurm/ that was called. site: the cluster as it was named.

    stages: what is made of the run, in order, upstream too. asked: of those, what the script or --stage
    named. ranks: of all nodes together.
    """

    script: str
    site: str
    cluster: Cluster
    file: str
    overrides: tuple[str, ...]
    config: RunConfig
    asked: tuple[str, ...]
    stages: tuple[str, ...]
    ranks: int

    @property
    def nodes(self) -> int:
        return self.cluster.nodes_for(self.ranks)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.config.out

    @property
    def rank_arguments(self) -> list[str]:
        """Of `python`, for each rank."""
        return ["-m", "r1mega.cli", "run", self.file, *self.overrides, "--stage", ",".join(self.asked)]

    @property
    def script_arguments(self) -> list[str]:
        """Of the script, for this very request."""
        return ["--cluster", self.site, "--stage", ",".join(self.asked), self.file, *self.overrides]

    def command(self, stage: str) -> str:
        """What a person types to have a stage made."""
        words = ["--cluster", self.site, "--stage", stage, self.file, *self.overrides]
        return f"sbatch slurm/run.sh {shlex.join(words)}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sbatch slurm/SCRIPT.sh",
        description="stages of a run as a Slurm job; docs/cluster.md",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--cluster", metavar="NAME", help="configs/clusters/NAME.toml; or $R1MEGA_CLUSTER")
    parser.add_argument("--nodes", metavar="N", type=int, help="nodes; default: as many as nproc needs")
    parser.add_argument("--stage", metavar="NAME,...", help="only these, instead of the script's own")
    parser.add_argument("--here", action="store_true", help="use this allocation as it is, if the ranks fit")
    parser.add_argument("--script", default="run.sh", help=argparse.SUPPRESS)
    parser.add_argument("--stages", default="*", help=argparse.SUPPRESS)  # the script's own, as patterns
    parser.add_argument("--default", help=argparse.SUPPRESS)  # its config
    parser.add_argument("--each", action="store_true", help=argparse.SUPPRESS)  # an array, a task a target
    parser.add_argument("words", metavar="CONFIG key=value", nargs="*", help="as of r1mega run")
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """key=value may stand anywhere, as with `r1mega run`."""
    parser = build_parser()
    options, rest = parser.parse_known_args(argv)
    if wrong := [word for word in rest if word.startswith("-") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    words = [*options.words, *rest]
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        parser.error(f"one config, not {len(files)}: {' '.join(files)}")
    options.config = files[0] if files else None
    options.overrides = [word for word in words if "=" in word]
    return options


def ask(options: argparse.Namespace, file: str | None = None, stages: Sequence[str] | None = None) -> Request:
    """The request, with what is wrong with it said: cluster, config, stages, layouts. Reads files only.

    file, stages: in place of those that the options name.
    """
    cluster = load_cluster(options.cluster)
    path = file or options.config or options.default
    if path is None:
        raise UserError("which config? say it: configs/toy/r1.toml, or one of your own")
    overrides = list(options.overrides)
    config = load(path, overrides)
    scratch = cluster.scratch_folder()
    if scratch is not None and "out" not in config.model_fields_set:
        overrides.append(f"out={scratch / config.name}")
    ranks = count_ranks(config, cluster, options.nodes)
    if ranks != config.nproc:
        overrides.append(f"nproc={ranks}")
    config = load(path, overrides)
    names = stages or choose(config, options.stage, options.stages, options.script)
    try:
        refuse_layouts(config, ranks)
    except UserError as error:
        raise UserError(f"{error}; say nproc=N, or --nodes N") from None
    made = needed(config, names)
    return Request(
        script=options.script,
        site=options.cluster or os.environ[DEFAULT],
        cluster=cluster,
        file=path,
        overrides=tuple(overrides),
        config=config,
        asked=tuple(names),
        stages=tuple(made),
        ranks=ranks,
    )


def count_ranks(config: RunConfig, cluster: Cluster, nodes: int | None) -> int:
    """All ranks of the job: --nodes full ones, else the config's nproc, else those of one node."""
    if nodes is not None and nodes < 1:
        raise UserError(f"--nodes {nodes}: at least one")
    if nodes is not None:
        return nodes * cluster.nodes.ranks
    if "nproc" in config.model_fields_set or cluster.scheduler == "none":
        return config.nproc
    return cluster.nodes.ranks


def choose(config: RunConfig, asked: str | None, patterns: str, script: str) -> list[str]:
    """The stages by name, or those that are the script's, in the config's order."""
    names = list(config.stages)
    if asked is not None:
        wanted = asked.split(",")
        if unknown := [one for one in wanted if one not in names]:
            raise UserError(f"--stage {unknown[0]}: no such stage; stages: {', '.join(names)}")
        return [name for name in names if name in wanted]
    found = [name for name in names if any(fnmatch(name, one) for one in patterns.split(","))]
    if not found:
        raise UserError(
            f"this config has no stage {' or '.join(patterns.split(','))}, which {script} makes; it has "
            f"{', '.join(names)}: say --stage NAME"
        )
    return found
