#!/bin/bash
# R1, stage 3: rejection sampling, and fine-tuning from the base again.
#   sbatch slurm/r1_stage3.sh [--cluster NAME] [--nodes N] [CONFIG] [key=value ...]      docs/cluster.md
#SBATCH --job-name=r1_stage3
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --mem=1G
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
set -euo pipefail
home=${R1MEGA_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
[ -f "$home/slurm/common.sh" ] || { echo "error: sbatch from the repository's folder, or set R1MEGA_HOME" >&2; exit 2; }
. "$home/slurm/common.sh"
stages r1_stage3.sh --stages rejection_data,rejection_sft --default configs/r1/r1_v3_671b.toml "$@"
