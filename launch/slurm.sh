#!/usr/bin/env bash
# Trains on a Slurm cluster, one process a GPU: sbatch launch/slurm.sh --workdir=SHARED_PATH ...
# The workdir must be on a file system that every node sees. Slurm's SIGTERM before a preemption
# saves the run; the same command goes on.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
set -euo pipefail
source "${SLURM_SUBMIT_DIR:-.}/launch/environment.sh"
install -r requirements.txt -e ".[cuda]"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export JAX_LOCAL_DEVICE_IDS=0  # a task sees its own GPU alone
large_pages "$@"
code=0
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" \
  "$venv/bin/python" -m alexnet_jax.main --distributed "$@" || code=$?
say_signal "$code"
exit "$code"
