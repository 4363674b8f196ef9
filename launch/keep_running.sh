#!/usr/bin/env bash
# Starts a run again until it is finished, however often its process or its machine goes away:
#   bash launch/keep_running.sh --workdir=runs/long --config=imagenette       (launch/local.sh's way)
#   bash launch/keep_running.sh COMMAND ... --workdir=runs/long ...           (any command)
# It waits 1 s after the first end, and twice as long after each further one, at most WAIT_AT_MOST
# (300). A new checkpoint is progress, and resets the wait to 1 s. The script gives up after
# GIVE_UP_AFTER (5) ends without progress, and at once if the command refuses to begin: a wrong
# flag stays wrong. SIGTERM and Ctrl-C go to the command, which saves; then both end.
# W/history.jsonl has every start and end; summary.json says what the time went to.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/ends.sh"
case "${1:-}" in
  "") sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  --*) set -- bash "$(dirname "${BASH_SOURCE[0]}")/local.sh" "$@" ;;
esac
workdir=""
previous=""
for argument in "$@"; do
  case "$argument" in --workdir=* | -workdir=*) workdir="${argument#*=}" ;; esac
  case "$previous" in --workdir | -workdir) workdir="$argument" ;; esac
  previous="$argument"
done
workdir="${workdir/#\~/$HOME}"
case "$workdir" in  # of a bucket there is a copy
  gs://*) workdir="${XDG_CACHE_HOME:-$HOME/.cache}/alexnet_jax/buckets/${workdir#gs://}" ;;
esac
[ -n "$workdir" ] || { echo "error: --workdir: is needed, to see whether the run gets on" >&2; exit 2; }

# A checksum of the run's history; it changes when a run begins.
history() {
  cksum "$workdir/history.jsonl" 2>/dev/null || true
}

# The last step that has a whole checkpoint; 0 for none.
newest() {
  local found
  found="$(ls "$workdir/checkpoints" 2>/dev/null | grep -E '^[0-9]+$' | sort -n | tail -n 1)" || true
  echo "${found:-0}"
}

# Becomes the command. Passes --overwrite on until the run has begun once, not after each end.
become() {
  local argument own=()
  for argument in "$@"; do
    case "$argument" in
      --overwrite | --overwrite=* | -overwrite | -overwrite=*)
        [ -n "$begun" ] || own+=("$argument") ;;
      *) own+=("$argument") ;;
    esac
  done
  exec "${own[@]}"
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
begun=""
reached=0
while true; do
  before="$(history)"
  become "$@" &
  started=$!
  [ -z "$told" ] || stop  # by a signal that came meanwhile
  wait_for "$started"
  started=""
  [ "$code" != 0 ] || exit 0
  [ -z "$told" ] || exit "$code"
  if [ "$(history)" != "$before" ]; then
    begun=1
  elif [ "$code" -lt 128 ]; then
    echo "keep_running: the command ended with $code before the run began; not started again" >&2
    exit "$code"
  fi
  if [ "$(newest)" -gt "$reached" ]; then
    reached="$(newest)"
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
