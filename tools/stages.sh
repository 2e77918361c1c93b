#!/usr/bin/env bash
# What every run.sh shares; sourced after parse_options.sh (needs $stage and $stop_stage) and path.sh.
#
#   if stage 3 "lists and shards"; then ... fi      banner when 3 is wanted; the time it took when the next one begins
#   if ! is_done DIR WHAT...; then ...; mark_done DIR WHAT...; fi
#                                   skips finished work; WHAT are the files and words the work was made from.
#                                   is_trained instead of is_done stops where is_done would make the work again
#   log WORDS...                    one line of progress
#   launch MODULE ARGS...           python -m, or torchrun when $nproc or $num_nodes asks for several processes

log() { printf '[%s] %s\n' "$(date +%H:%M:%S)" "$*"; }

_stage_name=
_stage_start=$SECONDS

_stage_end() {
  if [ -n "$_stage_name" ]; then log "stage $_stage_name took $((SECONDS - _stage_start)) s"; fi
  _stage_name=
}

_stage_exit() { # a recipe that stops says where, and how to go on
  local status=$?
  if [ "$status" -eq 0 ]; then _stage_end; return; fi
  if [ -n "$_stage_name" ]; then
    log "stopped in stage $_stage_name (status $status). Finished work is kept: run the same command again to go on from there" >&2
  fi
}
trap _stage_exit EXIT

stage() { # number title
  if [ "$stage" -gt "$1" ] || [ "$stop_stage" -lt "$1" ]; then return 1; fi
  _stage_end
  _stage_name="$1 ($2)"
  _stage_start=$SECONDS
  printf '\n\033[1m== stage %s: %s\033[0m\n' "$1" "$2"
}

_fingerprint() {
  local item
  for item in "$@"; do
    if [ -f "$item" ]; then cksum <"$item"; else printf '%s\n' "$item"; fi
  done | cksum | cut -d' ' -f1
}

is_done() { # dir what...
  local dir=$1; shift
  if [ ! -e "$dir/.done" ]; then return 1; fi
  if [ "$(cat "$dir/.done")" = "$(_fingerprint "$@")" ]; then log "$dir is complete, skipped"; return 0; fi
  log "$dir was made from other inputs or options: made again"
  return 1
}

is_trained() { # dir what...; like is_done, but never starts over what cost hours
  local dir=$1; shift
  if [ ! -e "$dir/.done" ]; then return 1; fi
  if [ "$(cat "$dir/.done")" = "$(_fingerprint "$@")" ]; then log "$dir is complete, skipped"; return 0; fi
  log "$dir holds a model trained from other data or options. Remove that folder, or choose another --exp" >&2
  exit 1
}

mark_done() { # dir what...
  local dir=$1; shift
  mkdir -p "$dir"
  _fingerprint "$@" >"$dir/.done"
}

# Processes per node: visible GPUs (CUDA_VISIBLE_DEVICES is honoured); on a CPU two, which keep two cores far busier than one process with
# two threads does (its many small operations wait for each other).
count_processes() { python -c 'import os, torch; print(torch.cuda.device_count() or min(2, os.cpu_count() or 1))'; }

launch() { # module arguments...
  local module=$1; shift
  : "${nproc:=$(count_processes)}"
  if [ "$nproc" -eq 1 ] && [ "$num_nodes" -eq 1 ]; then
    python -m "$module" "$@"
  else
    local cores; cores=$(getconf _NPROCESSORS_ONLN)
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > nproc ? cores / nproc : 1))} \
      torchrun --nnodes="$num_nodes" --nproc_per_node="$nproc" --rdzv_id="$job_id" --rdzv_backend=c10d \
      --rdzv_endpoint="$HOST_NODE_ADDR" -m "$module" --train_engine "$train_engine" "$@"
  fi
}
