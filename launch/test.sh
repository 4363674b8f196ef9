#!/usr/bin/env bash
# Lints, type-checks and tests: bash launch/test.sh [pytest's arguments]
#   --matrix    a part of the tests with the lowest versions that pyproject.toml allows, with those
#               of Colab, with the pinned ones, and with the newest, by each Python that is here
#   --lowest    the lowest versions alone
#   --release   everything: every case of every family, the wheel, and the matrix
# By default, long tests and those that start processes are left out; -m "not exhaustive" runs them
# too, and -m "" also runs every case of every family.
# ALEXNET_EXTRAS=dev,torch,onnx also runs the comparisons with PyTorch.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

# What versions change: programs, steps, whole runs, checkpoints, stores, the Python face.
PART=(tests/ops tests/layers tests/steps tests/test_model.py tests/feed tests/configs
  tests/training/test_train.py tests/training/test_earlier_versions.py
  tests/training/test_crash.py tests/inference/test_network.py tests/data/store/test_record.py
  tests/data/store/test_riegeli.py tests/parallel/test_mesh.py
  tests/data/test_tfds.py tests/data/test_words.py tests/data/test_folder.py tests/figures/test_fonts.py)

part_of_tests() {  # NAME PYTHON REQUIREMENT ...: in an environment of its own
  local name="$1" python="$2"
  shift 2
  local here="${venv%/}-$name"
  if [ ! -x "$here/bin/python" ]; then "$python" -m venv --clear "$here"; fi
  echo "== $name: $("$python" --version)"
  "$here/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  PYTHONPATH="$root" "$here/bin/python" -m pytest -n logical --maxprocesses 4 --dist loadfile -q \
    -m "not slow and not exhaustive" "${PART[@]}"
}

lowest() {  # every dependency of pyproject.toml at its least version
  local pins python
  for python in "$venv/bin/python" python3.11 python3.12 ""; do
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && break
  done
  if [ -z "$python" ]; then
    echo "lowest: skipped, numpy 2.0 has no wheels for the Pythons that are here (3.11 or 3.12 has)"
    return
  fi
  mapfile -t pins < <("$venv/bin/python" - <<'PYTHON'
import pathlib, re, tomllib
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
print(*(re.sub(r">=", "==", one) for one in project["dependencies"]), sep="\n")
print(*(one for one in project["optional-dependencies"]["dev"] if one.startswith(("pytest", "hyp", "google-crc"))), sep="\n")
PYTHON
  )
  part_of_tests lowest "$python" "${pins[@]}"
}

colab() {  # a Colab notebook's versions (August 2026), and the notebooks
  python_is_supported python3.13 || return 0
  part_of_tests colab python3.13 jax==0.7.2 flax==0.11.2 orbax-checkpoint==0.12.4 numpy==2.1.3 \
    grain==0.2.18 ".[dev]"
  PYTHONPATH="$root" "${venv%/}-colab/bin/python" -m pytest -q -m "" \
    tests/launch/test_notebooks.py -k runs_from_any_folder
}

matrix() {
  lowest
  colab
  local python
  for python in python3.11 python3.12 python3.13 python3.14; do
    python_is_supported "$python" || continue
    part_of_tests "pinned-$python" "$python" -r requirements.txt ".[dev]"
    part_of_tests "newest-$python" "$python" --upgrade --upgrade-strategy eager ".[dev]"
  done
}

wheel() {  # what pip installs elsewhere: it holds all it needs, and its commands run anywhere
  local here
  here="$(mktemp -d)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check build
  "$venv/bin/python" -m build --wheel --outdir "$here" . >/dev/null
  "$venv/bin/python" -m venv "$here/venv"
  "$here/venv/bin/pip" install --quiet --disable-pip-version-check "$here"/*.whl
  (
    cd "$here"
    venv/bin/alexnet-train --list_recipes
    venv/bin/alexnet-train --workdir=run --config.data_dir=data --config.num_steps=2
    venv/bin/alexnet-evaluate --workdir=run --views=1
    venv/bin/alexnet-visualize kernels --workdir=run
    venv/bin/alexnet-convert --from=workdir run --to=safetensors run.safetensors
    venv/bin/alexnet-checkpoints --workdir=run --verify
  )
  rm -rf "$here"
}

all_of_them=(-m "not slow and not exhaustive")
wanted="${1:-}"
case "$wanted" in --matrix | --lowest | --release) shift ;; *) wanted="" ;; esac
extras="${ALEXNET_EXTRAS:-dev}"
if [ "$wanted" = --release ]; then extras="dev,torch,onnx"; all_of_them=(-m ""); fi
install -r requirements.txt -e ".[$extras]"
if [ "$wanted" = --lowest ]; then lowest; exit; fi
if [ "$wanted" = --matrix ]; then matrix; exit; fi
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/pyright" --pythonpath "$venv/bin/python"
# One file of tests per worker: what the tests of a file share is built once.
"$venv/bin/python" -m pytest -n logical --maxprocesses 4 --dist loadfile "${all_of_them[@]}" "$@"
if [ "$wanted" = --release ]; then
  wheel
  matrix
fi
