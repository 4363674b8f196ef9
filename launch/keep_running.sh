#!/usr/bin/env bash
# Starts a run again until it is finished, however often its process or its machine goes away:
#   bash launch/keep_running.sh --workdir=runs/long --config=imagenette       (launch/local.sh's way)
#   bash launch/keep_running.sh COMMAND ... --workdir=runs/long ...           (any command)
# It waits 1 s after the first end, twice as long after each further one, at most WAIT_AT_MOST
# (300); a checkpoint more than before is progress, and begins at 1 s again. It gives up after
# GIVE_UP_AFTER (5) ends without progress, and at once where the command refuses to begin: a flag
# that is wrong stays wrong. SIGTERM and Ctrl-C go to the command, which saves, and end it all.
# W/history.jsonl has every start and end; summary.json says what the time went to.
set -euo pipefail
case "${1:-}" in
  "") sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  --*) set -- bash "$(dirname "${BASH_SOURCE[0]}")/local.sh" "$@" ;;
esac
workdir=""
previous=""
for argument in "$@"; do
  case "$argument" in --workdir=*) workdir="${argument#*=}" ;; esac
  [ "$previous" != --workdir ] || workdir="$argument"
  previous="$argument"
done
[ -n "$workdir" ] || { echo "error: --workdir: is needed, to see whether the run gets on" >&2; exit 2; }

# How many events of a kind the run's history has.
events() {
  local count
  count="$(grep -c "^{\"event\": \"$1\"" "$workdir/history.jsonl" 2>/dev/null)" || true
  echo "${count:-0}"
}

started=""
told=""
stop() {
  told=1
  [ -z "$started" ] || kill -TERM "$started" 2>/dev/null || true
}
trap stop INT TERM

without=0
pause=1
while true; do
  saves="$(events save)" starts="$(events start)"
  "$@" &
  started=$!
  code=0
  wait "$started" || code=$?
  while kill -0 "$started" 2>/dev/null; do  # a signal interrupts the first wait
    code=0
    wait "$started" || code=$?
  done
  started=""
  [ "$code" != 0 ] || exit 0
  [ -z "$told" ] || exit "$code"
  if [ "$code" -lt 128 ] && [ "$(events start)" = "$starts" ]; then
    echo "keep_running: the command ended with $code before the run began; not started again" >&2
    exit "$code"
  fi
  if [ "$(events save)" != "$saves" ]; then
    without=0
    pause=1
  else
    without=$((without + 1))
  fi
  if [ "$without" -ge "${GIVE_UP_AFTER:-5}" ]; then
    echo "keep_running: $without ends without a new checkpoint, the last with $code; giving up" >&2
    exit "$code"
  fi
  echo "keep_running: ended with $code; starting again in $pause s" >&2
  sleep "$pause" &
  wait $! || true
  [ -z "$told" ] || exit "$code"
  pause=$((pause * 2 < ${WAIT_AT_MOST:-300} ? pause * 2 : ${WAIT_AT_MOST:-300}))
done
