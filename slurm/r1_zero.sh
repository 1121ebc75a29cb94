#!/bin/bash
# R1-Zero: rewards alone, from the base.
#   sbatch slurm/r1_zero.sh [--cluster NAME] [--nodes N] [CONFIG] [key=value ...]      docs/cluster.md
#SBATCH --job-name=r1_zero
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --mem=1G
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
set -euo pipefail
home=${R1MEGA_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
[ -f "$home/slurm/common.sh" ] || { echo "error: sbatch from the repository's folder, or set R1MEGA_HOME" >&2; exit 2; }
. "$home/slurm/common.sh"
stages r1_zero.sh --stages r1_zero --default configs/r1_zero/v3_671b.toml "$@"
