#!/bin/bash
# Checkpoints in and out, on one node.
#   sbatch slurm/convert.sh [--cluster NAME] ... (as tools/convert_hf.py)      docs/cluster.md
#SBATCH --job-name=convert
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --mem=1G
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
set -euo pipefail
home=${R1MEGA_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
[ -f "$home/slurm/common.sh" ] || { echo "error: sbatch from the repository's folder, or set R1MEGA_HOME" >&2; exit 2; }
. "$home/slurm/common.sh"
one_node convert.sh "$@"
