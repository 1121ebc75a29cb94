#!/bin/bash
# All of R1: submits every stage as a job that waits for those whose results it takes, and prints the graph.
#   bash slurm/r1_all.sh [--cluster NAME] [--nodes N] [CONFIG] [key=value ...]      docs/cluster.md
# On the login node. What is done already is left out; give the same command again after a failure.
set -euo pipefail
home=${R1MEGA_HOME:-$(dirname "$0")/..}
[ -f "$home/slurm/common.sh" ] || { echo "error: run it as bash slurm/r1_all.sh, or set R1MEGA_HOME" >&2; exit 2; }
. "$home/slurm/common.sh"
exec "$python" -m launch.graph --script r1_all.sh --default configs/r1/r1_v3_671b.toml "$@"
