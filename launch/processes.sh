#!/usr/bin/env bash
# Trains in several processes on this machine: bash launch/processes.sh -n 4 --workdir=runs/four ...
# Each process drives the devices that JAX gives it: one CPU device, or one GPU if there are GPUs.
# Process 0's output is shown as it is, the others' with their number. When one fails, or on Ctrl-C,
# all end.
set -euo pipefail
[ "${1:-}" = "-n" ] && [ "${2:-0}" -ge 1 ] 2>/dev/null || {
  echo "usage: bash launch/processes.sh -n COUNT --workdir=W [--config=NAME] ..." >&2
  exit 2
}
count="$2"
shift 2
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install -r requirements.txt
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
large_pages "$@"
port="$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"

processes=()
told=""  # to stop, by a signal: the processes save and end in their own time
trap 'told=1; kill -TERM "${processes[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < count; i++)); do
  if command -v nvidia-smi >/dev/null; then export JAX_LOCAL_DEVICE_IDS="$i"; fi
  command=("$venv/bin/python" -m alexnet_jax.main "--coordinator=127.0.0.1:$port"
    "--num_processes=$count" "--process_id=$i" "$@")
  if [ "$i" = 0 ]; then
    "${command[@]}" &
  else
    "${command[@]}" > >(sed -u "s/^/[$i] /") 2>&1 &
  fi
  processes+=($!)
done

status=0
while [ -n "$(jobs -rp)" ]; do
  code=0
  wait -n || code=$?
  if [ "$code" != 0 ] && [ "$status" = 0 ]; then
    status="$code"
    say_signal "$code"
    # The others would wait for the failed one; they have ten seconds for their last output.
    [ -n "$told" ] || { sleep 10; kill -KILL "${processes[@]}" 2>/dev/null || true; } &
  fi
done
exit "$status"
