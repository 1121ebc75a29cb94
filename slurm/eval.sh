#!/bin/bash
# A model on benchmarks, on one node.
#   sbatch slurm/eval.sh [--cluster NAME] MODEL --benchmarks NAME,... (as r1mega eval)      docs/cluster.md
#SBATCH --job-name=eval
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --mem=1G
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
set -euo pipefail
home=${R1MEGA_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
[ -f "$home/slurm/common.sh" ] || { echo "error: sbatch from the repository's folder, or set R1MEGA_HOME" >&2; exit 2; }
. "$home/slurm/common.sh"
one_node eval.sh "$@"
