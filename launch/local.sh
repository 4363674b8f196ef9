#!/usr/bin/env bash
# Trains on this machine: bash launch/local.sh --workdir=runs/first [--config=NAME] [--config.FIELD=VALUE ...]
# Needs git and python3 (3.11 to 3.13); everything else is installed into .venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install -r requirements.txt
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$venv/bin/python" -m alexnet_jax.main "$@"
