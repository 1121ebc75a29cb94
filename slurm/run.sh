#!/bin/bash
# Any stages of any config: all of them, or --stage NAME,...
#   sbatch slurm/run.sh [--cluster NAME] [--nodes N] CONFIG [key=value ...]      docs/cluster.md
#SBATCH --job-name=run
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --mem=1G
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
set -euo pipefail
home=${R1MEGA_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
[ -f "$home/slurm/common.sh" ] || { echo "error: sbatch from the repository's folder, or set R1MEGA_HOME" >&2; exit 2; }
. "$home/slurm/common.sh"
stages run.sh "$@"
