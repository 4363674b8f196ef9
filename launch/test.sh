#!/usr/bin/env bash
# Lints, type-checks and tests: bash launch/test.sh [pytest's arguments]
# Tests that are long or start processes are left out; with -m "not exhaustive" they run too, and
# with -m "" so does every case of every family.
# ALEXNET_EXTRAS=dev,torch,onnx also runs the comparisons with PyTorch.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install -r requirements.txt -e ".[${ALEXNET_EXTRAS:-dev}]"
cd "$root"
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/pyright" --pythonpath "$venv/bin/python"
# A file of tests to a worker: what a file shares is built once.
"$venv/bin/python" -m pytest -n logical --maxprocesses 4 --dist loadfile -m "not slow and not exhaustive" "$@"
