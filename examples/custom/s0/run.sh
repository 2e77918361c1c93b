#!/usr/bin/env bash
# Your own recordings: from a manifest.jsonl or a Kaldi directory to a fine-tuned, scored model, starting from any checkpoint.
#
#   bash run.sh --manifest my/manifest.jsonl --init ../../mini/s0/exp/default/1d_full_label/final.pt --task asr
#   bash run.sh --kaldi my/data --test_speakers anna,bob --init my/exp/final.pt
#
# A manifest line is JSON: key, wav (relative to the manifest) and what is known of txt speaker gender age emotion event style.
#
# Stage  What it does                                             What it leaves
#    0   manifest or Kaldi directory to lists, split by speaker;  <data>/train.list, test.list; <exp>/doctor/doctor.html
#        data doctor, errors stop the recipe
#    3   a look at the token sequences
#    4   fine-tune                                                <exp>/finetune
#    7   decode the test list, score, report                      <exp>/results.json, report.html
# Other numbers have nothing to do here. Finished work is skipped, an interrupted training goes on. Paths are seen from where you call.
set -euo pipefail

stage=0                 # first stage to run
stop_stage=7            # last stage to run
manifest=               # manifest.jsonl, or
kaldi=                  # a Kaldi directory
select=                 # conditions on the rows, all must hold: "set=digits age>=13 gender=*"
task=auto               # task of every row; auto: the richest its fields can answer
text=keep               # transcripts: keep, lower or plain (lower case without punctuation, as the mini model writes)
unknown_labels=error    # labels outside the inventories: error or drop
test_speakers=          # speakers of the test list: a,b; empty: a fold of the speakers
folds=5                 # speakers are dealt into so many folds
fold=0                  # which of them is tested
init=../../mini/s0/exp/default/1d_full_label/final.pt # checkpoint to start from; its train.yaml lies beside it
tokenizer=              # its tokenizer, where that has moved since
conf=conf/finetune.yaml # how to train
decode_task=            # what to ask for when decoding; empty: the commonest task of the test list
max_bad=0               # share of unusable rows that the doctor lets pass
data=                   # lists are put here; empty: the folder data beside run.sh
exp=                    # models and results are put here; empty: the folder exp beside run.sh
seed=777                # of the data order
nj=2                    # processes for checking data
overrides=              # further settings of the training: "train.max_steps=100 train.optim.lr=1e-4"
train_engine=torch_ddp  # engine when several processes train
nproc=                  # training processes on this machine; empty: one per visible GPU, or two on a CPU
num_nodes=1             # machines
job_id=2026             # rendezvous id, the same on all machines
HOST_NODE_ADDR=${HOST_NODE_ADDR:-localhost:0} # host:port of the first machine
. "$(dirname "${BASH_SOURCE[0]}")/../../../tools/parse_options.sh"
fail() { echo "run.sh: $1 (--help lists the options)" >&2; exit 2; }
[ $# -eq 0 ] || fail "unexpected argument $1"
if [ -n "$manifest" ] && [ -n "$kaldi" ]; then fail "give --manifest or --kaldi, not both"; fi
if [ -z "$manifest$kaldi" ] && [ "$stage" -le 0 ]; then fail "give --manifest FILE or --kaldi DIR"; fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for name in init conf; do # defaults lie in this folder, what the user says is seen from where they are
  if [ ! -e "${!name}" ] && [ -e "$here/${!name}" ]; then printf -v "$name" '%s' "$here/${!name}"; fi
done
data=${data:-$here/data}
exp=${exp:-$here/exp}
bash "$here/../../../tools/setup_env.sh"
. "$here/path.sh"
. "$tools/stages.sh"
log "custom recipe: data in $data, models in $exp, start from $init"

if stage 0 "lists, split by speaker; data doctor"; then
  args=(--task "$task" --text "$text" --unknown_labels "$unknown_labels" --out "$data" --folds "$folds" --fold "$fold")
  if [ -n "$manifest" ]; then args+=(--manifest "$manifest"); else args+=(--kaldi "$kaldi"); fi
  if [ -n "$test_speakers" ]; then args+=(--test_speakers "$test_speakers"); fi
  read -r -a conditions <<<"$select"
  if [ ${#conditions[@]} -gt 0 ]; then args+=(--select "${conditions[@]}"); fi
  if [ -n "$kaldi" ]; then bash "$tools/validate_data_dir.sh" --no-text "$kaldi"; fi
  python -m osum_echat.bin.prepare "${args[@]}"
  if ! is_done "$exp/doctor" "$data/train.list" "$data/test.list" "$max_bad"; then
    python -m osum_echat.bin.doctor --train "$data/train.list" --test "$data/test.list" --out "$exp/doctor" --num_jobs "$nj" --max_bad "$max_bad" \
      || { log "the data has errors, see $exp/doctor/doctor.html" >&2; exit 1; }
    mark_done "$exp/doctor" "$data/train.list" "$data/test.list" "$max_bad"
  fi
fi

model=$exp/finetune
config=$exp/finetune.yaml
if [ "$stop_stage" -ge 3 ]; then
  if [ ! -e "$init" ]; then fail "--init $init does not exist; the mini recipe makes one: bash $(realpath "$here/../../mini/s0")/run.sh"; fi
  facts=$(python "$here/local/start_from.py" --conf "$conf" --init "$init" --tokenizer "$tokenizer" --out "$config")
  { read -r tokenizer; read -r prompts; } <<<"$facts"
fi

if stage 3 "a look at the sequences"; then
  python "$tools/show_sequences.py" --list "$data/train.list" --tokenizer "$tokenizer" --prompts "$prompts" --num 1
fi

if stage 4 "fine-tune"; then
  args=(--set data.train.0.kind=raw --set data.train.0.list="$data/train.list" --set seed="$seed")
  for item in $overrides; do args+=(--set "$item"); done
  made_from=("$config" "$conf" "$init" "$data/train.list" "${args[@]}")
  if ! is_trained "$model" "${made_from[@]}"; then
    launch osum_echat.bin.train --config "$config" --dir "$model" --init "$init" "${args[@]}"
    mark_done "$model" "${made_from[@]}"
  fi
fi

if stage 7 "decode, score, report"; then
  if [ -z "$decode_task" ]; then
    decode_task=$(python -c 'import json, sys; print(next(iter(json.load(open(sys.argv[1]))["test"]["tasks"])))' "$data/prepare.json")
  fi
  decoded=$model/decode_$decode_task
  if ! is_done "$decoded" "$model/final.pt" "$data/test.list"; then
    if [ -e "$decoded/.done" ]; then rm -rf "$decoded"; fi
    python -m osum_echat.bin.decode --config "$model/train.yaml" --checkpoint "$model/final.pt" --list "$data/test.list" --task "$decode_task" \
      --out "$decoded"
    mark_done "$decoded" "$model/final.pt" "$data/test.list"
  fi
  labels=$(python -c 'import sys; from osum_echat.tasks.task import get_task; print(",".join(get_task(sys.argv[1]).labels))' "$decode_task")
  python -m osum_echat.bin.score --ref "$data/test.list" --hyp "$decoded" --labels "$labels" --prefix "understand" \
    --results "$exp/results.json" --train_list "$data/train.list"
  python -m osum_echat.bin.report --dir "$exp"
fi
