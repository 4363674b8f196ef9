# Sourced: makes .venv beside the project if it is missing and installs what is asked for into it.
#   install FILE_OR_PACKAGE ...   (pip's arguments; skipped where the same was installed before)
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${ALEXNET_VENV:-$root/.venv}"

python_is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then  # none yet, or half made
  for python in python3 python3.13 python3.12 python3.11; do
    python_is_supported "$python" && break
    python=""
  done
  [ -n "$python" ] || { echo "error: python3 must be 3.11, 3.12 or 3.13" >&2; exit 1; }
  echo "making $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
fi

install() {
  local stamp="$venv/installed-$(cat "$root/requirements.txt" "$root/pyproject.toml" - <<<"$*" | cksum | tr -d ' ')"
  [ -e "$stamp" ] && return
  echo "installing $* into $venv"
  (cd "$root" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@")
  touch "$stamp"
}
