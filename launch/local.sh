#!/usr/bin/env bash
# Trains on this machine: bash launch/local.sh --workdir=runs/first [--config=NAME] [--config.FIELD=VALUE ...]
# Needs git and python3 (3.11 to 3.14); everything else is installed into .venv, JAX for the
# accelerator that is there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install -r requirements.txt $(accelerator)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
large_pages "$@"
"$venv/bin/python" -m alexnet_jax.main "$@" &
started=$!  # not %1, which the shell knows long after it has ended
trap 'kill -TERM "$started" 2>/dev/null || true' INT TERM  # saves the run, and ends it
wait_for "$started"
say_signal "$code"
exit "$code"
