#!/usr/bin/env bash
# Trains on a Slurm cluster, a process a task:
#   bash launch/slurm.sh --install [cuda]     once, where there is a network: a login node
#   sbatch --gpus-per-node=2 --ntasks-per-node=2 launch/slurm.sh --workdir=SHARED_PATH ...
#   sbatch --ntasks-per-node=4 launch/slurm.sh --workdir=SHARED_PATH ...       a CPU partition
#   sbatch --array=0-4 launch/slurm.sh --workdir=SHARED_PATH/seed%a --config.seed=%a ...
# The checkout and the workdir must be on file systems that every node sees. Every task sees all GPUs
# of its node, so that NCCL finds their links, and computes on its own. Two minutes before the time
# limit (--signal), the run is saved and the job requeues itself, until the run is finished; after a
# pre-emption, a failed node or `scontrol requeue`, Slurm requeues it. `scancel` saves and ends it.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
script="${BASH_SOURCE[0]}"
if [ -n "${SLURM_JOB_ID:-}" ]; then  # which runs a copy of this file, elsewhere
  about="$(scontrol show job "$SLURM_JOB_ID")"  # its paths may have spaces
  about="${about#*Command=}"
  script="${about%%/launch/slurm.sh*}/launch/slurm.sh"
fi
export ALEXNET_VENV="${ALEXNET_VENV:-$(cd "$(dirname "$script")/.." && pwd)/.venv}"
if [ "${1:-}" = --install ]; then
  source "$(dirname "$script")/environment.sh"
  install -r requirements.txt -e ".${2:+[$2]}"
  exit
fi
[ -n "${SLURM_JOB_ID:-}" ] || { echo "usage: sbatch launch/slurm.sh --workdir=W ..." >&2; exit 2; }
"$ALEXNET_VENV/bin/python" -c "import jax" 2>/dev/null || {
  echo "error: $ALEXNET_VENV has no JAX; run bash launch/slurm.sh --install [cuda] on a login node" >&2
  exit 1
}
source "$(dirname "$script")/environment.sh"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
large_pages "$@"

late=""  # near the time limit: the tasks save, and the job begins again
trap 'late=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1
srun --kill-on-bad-exit=1 --gpu-bind=none --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$venv/bin/python" -m alexnet_jax.main --distributed "${@//%a/${SLURM_ARRAY_TASK_ID:-}}" &
wait_for $!
if [ -n "$late" ] && [ "$code" != 0 ]; then
  echo "the time limit is near: the job queues itself again"
  scontrol requeue "$SLURM_JOB_ID"
fi
say_signal "$code"
exit "$code"
