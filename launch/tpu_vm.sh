#!/usr/bin/env bash
# A run on a Cloud TPU: makes a slice, copies this checkout to all its hosts, and trains there.
#   bash launch/tpu_vm.sh run NAME --type=v5litepod-8 --zone=us-west4-a [--spot] [--delete] \
#       [--project=P] [--version=IMAGE] [--slices=N] -- --workdir=DIR --config=paper ...
#   bash launch/tpu_vm.sh create|copy|start|follow|status|delete NAME ... (the parts of it)
# --dry_run prints the commands, one a line, and runs none. Needs gcloud, logged in, with the Cloud
# TPU API. Arguments after -- go to alexnet_jax.main; --workdir is a folder that all hosts share (a
# bucket mounted on each, Filestore), or nothing is left when the slice is gone. --spot makes a slice
# that may be taken away; `run` then requests it again and resumes, until the run is finished.
# --delete removes the slice after that; otherwise it stays, and costs, until `delete`.
# The script has not run on a TPU; only its gcloud commands are tested (tests/launch).
set -euo pipefail
usage() { sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
[ $# -ge 2 ] || usage
verb="$1" name="$2"
shift 2
type="" zone="" project="" version="" spot="" dry="" remove="" slices=1
while [ $# -gt 0 ]; do
  case "$1" in
    --type=*) type="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --spot) spot=1 ;;
    --delete) remove=1 ;;
    --dry_run) dry=1 ;;
    --) shift; break ;;
    *) echo "error: $1: what is that? What the run gets stands after --" >&2; exit 2 ;;
  esac
  shift
done
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ "$name" =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || {
  echo "error: $name: a slice's name is lower-case letters, digits and hyphens" >&2; exit 2; }
[ -n "$zone" ] || { echo "error: --zone: is needed, such as us-west4-a" >&2; exit 2; }

# The image for a type, if none is named.
image() {
  case "$type" in
    v6e*) echo v2-alpha-tpuv6e ;;
    v5litepod*) echo v2-alpha-tpuv5-lite ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

do_it() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

where=(--zone="$zone")
[ -z "$project" ] || where+=(--project="$project")
tpus=(gcloud compute tpus tpu-vm)
nodes=("$name")
if [ "$slices" -gt 1 ]; then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

create() {
  [ -n "$type" ] || { echo "error: --type: is needed, such as v5litepod-8" >&2; exit 2; }
  local asked=(--accelerator-type="$type" --runtime-version="${version:-$(image)}")
  [ -z "$spot" ] || asked+=(--spot)
  if [ "$slices" -gt 1 ]; then
    asked+=(--node-count="$slices" --node-prefix="$name")
  else
    asked+=(--node-id="$name")
  fi
  do_it gcloud compute tpus queued-resources create "$name" "${where[@]}" "${asked[@]}"
  local now
  while [ -z "$dry" ]; do
    now="$(state)" || now="not known"
    case "$now" in
      ACTIVE) break ;;
      FAILED | SUSPENDED | SUSPENDING)
        echo "error: $name is $now; gcloud compute tpus queued-resources describe says why" >&2
        return 1
        ;;
    esac
    echo "waiting for $name: $now"
    sleep "${ASK_EVERY:-30}"
  done
}

# Is the slice taken away? Just after the connection is lost it may still be reported as active, and
# a failed query tells nothing: so it asks several times.
taken_away() {
  local tries now
  for ((tries = 0; tries < 5; tries++)); do
    now="$(state)" || now=""
    case "$now" in
      SUSPENDED | SUSPENDING | FAILED | DELETING) return 0 ;;
    esac
    sleep "${ASK_EVERY:-30}"
  done
  return 1
}

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
}

# Runs a command on all hosts of all slices, at the same time.
everywhere() {
  local node code=0 started=()
  for node in "${nodes[@]}"; do
    if [ -n "$dry" ]; then
      do_it "${tpus[@]}" ssh "$node" "${where[@]}" --worker=all --command="$1"
    else
      "${tpus[@]}" ssh "$node" "${where[@]}" --worker=all --command="$1" &
      started+=($!)
    fi
  done
  for node in "${started[@]}"; do wait "$node" || code=$?; done
  return "$code"
}

copy() {
  local archive="${TMPDIR:-/tmp}/alexnet_jax-$name.tar.gz" node
  # Includes changes that are not committed; untracked files stay here.
  local tree
  tree="$(git -C "$root" stash create 2>/dev/null)" || true
  do_it git -C "$root" archive --format=tar.gz --output="$archive" "${tree:-HEAD}"
  for node in "${nodes[@]}"; do
    do_it "${tpus[@]}" scp "$archive" "$node:alexnet_jax.tar.gz" "${where[@]}" --worker=all
  done
  [ -n "$dry" ] || rm -f "$archive"
  everywhere 'mkdir -p alexnet_jax && tar -xzf alexnet_jax.tar.gz -C alexnet_jax'
}

# Has XLA overlap collectives with computation, as Google's own trainers do.
overlap="--xla_tpu_enable_data_parallel_all_reduce_opt=true"
overlap+=" --xla_tpu_data_parallel_opt_different_sized_ops=true"
overlap+=" --xla_tpu_enable_async_collective_fusion=true"
overlap+=" --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
overlap+=" --xla_tpu_enable_async_collective_fusion_multiple_steps=true"
overlap+=" --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true"

# Starts the run on all hosts; returns when it ends, with its exit code.
start() {
  local words
  words="$(printf '%q ' "$@")"
  everywhere "cd alexnet_jax && export LIBTPU_INIT_ARGS=\"\${LIBTPU_INIT_ARGS:-$overlap}\" && set -o pipefail && bash launch/local.sh --distributed $words 2>&1 | tee -a ../alexnet_jax.log"
}

follow() {
  do_it "${tpus[@]}" ssh "${nodes[0]}" "${where[@]}" --worker=0 --command='tail -n 50 -F alexnet_jax.log'
}

delete() {
  do_it gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

case "$verb" in
  create) create ;;
  copy) copy ;;
  start) copy; start "$@" ;;
  follow) follow ;;
  status) do_it gcloud compute tpus queued-resources describe "$name" "${where[@]}" ;;
  delete) delete ;;
  run)
    [[ " $* " = *" --workdir"* ]] || { echo "error: --workdir: is needed, after --" >&2; exit 2; }
    for ((tries = 1; ; tries++)); do
      create
      copy
      code=0
      start "$@" || code=$?
      [ -z "$dry" ] && [ "$code" != 0 ] && [ -n "$spot" ] || break
      [ "$tries" -lt "${GIVE_UP_AFTER:-20}" ] && taken_away || break
      echo "$name was taken away; asking for it again"
      delete
    done
    if [ -n "$remove" ] && [ "$code" = 0 ]; then
      delete
    else
      echo "$name stays, and costs: bash launch/tpu_vm.sh delete $name ${where[*]}" >&2
    fi
    exit "$code"
    ;;
  *) usage ;;
esac
