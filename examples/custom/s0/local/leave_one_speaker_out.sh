#!/usr/bin/env bash
# Fine-tunes and scores once per speaker, each time on everybody else, and averages: what a new speaker can expect.
#
#   local/leave_one_speaker_out.sh --manifest m.jsonl --select set=digits_fsdd --task asr --name digits
#   local/leave_one_speaker_out.sh --manifest m.jsonl --select "gender=* age>=13" --task gender --folds 5 --name gender
#
# With --folds the speakers are dealt into so many groups instead of one run per speaker. Every run is kept in <exp>/<name>/<speaker or fold>,
# the averages with every choice in <exp>/<name>/results.json and RESULTS.md. Run again, it goes on where it stopped.
set -euo pipefail

manifest=               # manifest.jsonl, or
kaldi=                  # a Kaldi directory
select=                 # conditions on the rows: "set=digits age>=13"
task=asr                # task of every row, also what is decoded
folds=0                 # 0: one run per speaker
name=speakers           # name of the experiment
text=plain              # transcripts: keep, lower or plain
init=                   # checkpoint to start from; empty: run.sh's default
conf=                   # YAML of the training; empty: run.sh's default
data=                   # lists are put into <data>/<name>; empty: the folder data of the recipe
exp=                    # results are put into <exp>/<name>; empty: the folder exp of the recipe
seed=777                # of the data order
overrides=              # further settings of every training
. "$(dirname "${BASH_SOURCE[0]}")/../../../../tools/parse_options.sh"
[ $# -eq 0 ] || { echo "leave_one_speaker_out.sh: unexpected argument $1 (--help lists the options)" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=${data:-$here/data}
exp=${exp:-$here/exp}
bash "$here/../../../tools/setup_env.sh"
. "$here/path.sh"
source_args=()
if [ -n "$manifest" ]; then source_args=(--manifest "$manifest"); fi
if [ -n "$kaldi" ]; then source_args=(--kaldi "$kaldi"); fi

if [ "$folds" -gt 0 ]; then
  choices=$(seq 0 $((folds - 1)))
else
  read -r -a conditions <<<"$select"
  if [ ${#conditions[@]} -gt 0 ]; then conditions=(--select "${conditions[@]}"); fi
  choices=$(python -m osum_echat.bin.prepare "${source_args[@]}" --list_speakers "${conditions[@]}")
fi

for choice in $choices; do
  if [ "$folds" -gt 0 ]; then split=(--folds "$folds" --fold "$choice"); else split=(--test_speakers "$choice"); fi
  args=("${source_args[@]}" "${split[@]}" --select "$select" --task "$task" --decode_task "$task" --text "$text" --seed "$seed")
  if [ -n "$init" ]; then args+=(--init "$init"); fi
  if [ -n "$conf" ]; then args+=(--conf "$conf"); fi
  printf '\n\033[1m#### %s: tested on %s\033[0m\n' "$name" "$choice"
  bash "$here/run.sh" "${args[@]}" --overrides "$overrides" --data "$data/$name/$choice" --exp "$exp/$name/$choice"
done
# shellcheck disable=SC2086 # choices are words
python "$here/local/average_results.py" --dir "$exp/$name" --choices $choices
