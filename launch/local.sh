#!/usr/bin/env bash
# Trains on this machine: bash launch/local.sh --workdir=runs/first [--config=NAME] [--config.FIELD=VALUE ...]
# Needs git and python3 (3.11 to 3.13); everything else is installed into .venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install -r requirements.txt
# Large pages that are given back late: a CPU step touches gigabytes and is half again as fast.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$venv/bin/python" -m alexnet_jax.main "$@"
