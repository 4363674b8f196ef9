# Sourced: makes .venv in the checkout if it is missing, and installs packages into it.
#   install FILE_OR_PACKAGE ...   (pip's arguments; skipped where the same was installed before)
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${ALEXNET_VENV:-$root/.venv}"
source "$root/launch/ends.sh"

python_is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then  # none yet, or half made
  for python in python3 python3.14 python3.13 python3.12 python3.11; do
    python_is_supported "$python" && break
    python=""
  done
  [ -n "$python" ] || { echo "error: python3 must be 3.11 to 3.14" >&2; exit 1; }
  echo "making $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
fi

# Large pages for a CPU's arrays, unless they are set already (alexnet_jax/host/large_pages.py).
large_pages() {
  case " $* " in *"kernels=reference "* | *"kernels reference "*) return ;; esac
  [ -n "${GLIBC_TUNABLES:-}" ] && return
  GLIBC_TUNABLES="$("$venv/bin/python" -c 'from alexnet_jax.host import large_pages as pages
print(pages.tunables() if pages.on_a_cpu() else "")')"
  if [ -n "$GLIBC_TUNABLES" ]; then export GLIBC_TUNABLES; fi
}

# Prints the JAX package for this machine's accelerator; nothing for a CPU.
accelerator() {
  if compgen -G "/dev/nvidia[0-9]*" >/dev/null; then echo "jax[cuda13]"
  elif [ -e /dev/accel0 ] || [ -n "${TPU_WORKER_ID:-}" ]; then echo "jax[tpu]"
  fi
}

install() {
  local stamp="$venv/installed-$(cat "$root/requirements.txt" "$root/pyproject.toml" - <<<"$*" | cksum | tr -d ' ')"
  [ -e "$stamp" ] && return
  echo "installing $* into $venv"
  (cd "$root" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@")
  touch "$stamp"
}
