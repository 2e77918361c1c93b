#!/usr/bin/env bash
# The whole path from nothing to a scored model, on a CPU, with nothing downloaded but packages. The corpus is synthesized, small backbones
# are trained from scratch in place of public weights, then come the stages, YAMLs and code of a full-size recipe.
#
#   bash examples/mini/s0/run.sh                     everything, preset default
#   bash examples/mini/s0/run.sh --preset smoke      the same path, tiny, for a first look and for tests
#   bash examples/mini/s0/run.sh --stage 4 --stop_stage 7
#
# Stage  What it does                                                            What it leaves
#   -1   synthesize the corpus (espeak-ng voices)                                data/<preset>: wav, Kaldi directories, lists
#    0   check Kaldi directories and lists; errors stop the recipe               exp/<preset>/doctor/doctor.html
#    1   text tokenizer; encoder (CTC) and language model from scratch           data/<preset>/tokenizer.model, exp/<preset>/1_backbone
#    2   speech tokens (they come with speech generation; passed over)
#    3   tar shards; a look at the token sequences                               data/<preset>/shards
#    4   understanding: 1a align, 1b ASR+P, 1c only-P, pseudo labels, 1d all     exp/<preset>/1a_align ... 1d_full_label
#    7   decode the test set, score, report                                      exp/<preset>/results.json, report.html
# Numbers 5, 6, 8, 9 and 10 are kept for stages that do not exist yet; a --stop_stage beyond 7 runs what exists.
# Finished work is skipped, an interrupted training goes on from its last checkpoint. Paths in options are seen from this folder.
set -euo pipefail

stage=-1                # first stage to run
stop_stage=7            # last stage to run
preset=default          # default or smoke
nj=2                    # processes for making and checking data
data=data               # the corpus is put into <data>/<preset>
exp=exp                 # models and results are put into <exp>/<preset>
data_type=shard         # what training reads: raw or shard
seed=777                # of the corpus, the initial weights and the data order
dtype=                  # float32 or bfloat16; empty: as the YAML says
overrides=              # further settings of every training: "train.max_steps=100 train.optim.lr=1e-4"
train_engine=torch_ddp  # engine when several processes train
nproc=                  # training processes on this machine; empty: one per visible GPU, or two on a CPU
num_nodes=1             # machines
job_id=2026             # rendezvous id, the same on all machines
HOST_NODE_ADDR=${HOST_NODE_ADDR:-localhost:0} # host:port of the first machine
. "$(dirname "${BASH_SOURCE[0]}")/../../../tools/parse_options.sh"
[ $# -eq 0 ] || { echo "run.sh: unexpected argument $1 (--help lists the options)" >&2; exit 2; }

settings=(seed="$seed" ${dtype:+train.dtype="$dtype"})
case $preset in
  default) ;;
  smoke) # the same path in minutes: every training is cut short, so the scores mean nothing
    settings+=(train.max_steps=20 train.max_tokens=800 train.schedule.warmup_steps=5 train.log_every=10 train.save_every=10) ;;
  *) echo "run.sh: --preset must be default or smoke, got $preset" >&2; exit 2 ;;
esac
for item in $overrides; do settings+=("$item"); done
case $data_type in raw | shard) ;; *) echo "run.sh: --data_type must be raw or shard, got $data_type" >&2; exit 2 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")"
bash ../../../tools/setup_env.sh
. ./path.sh
. "$tools/stages.sh"
data=$data/$preset
exp=$exp/$preset
log "mini recipe in $PWD, preset $preset: stages $stage to $stop_stage; data in $data, models in $exp"

sharded="train_asr train_asr_p dev" # lists that stage 3 writes as shards; the others are read as they are
list_settings() { # data.train or data.dev, then names of lists
  local where=$1 number=0 name; shift
  for name in "$@"; do
    if [ "$data_type" = shard ] && [[ " $sharded " = *" $name "* ]]; then
      settings_of_lists+=("$where.$number.kind=shard" "$where.$number.list=$data/shards/$name/data.list")
    else
      settings_of_lists+=("$where.$number.kind=raw" "$where.$number.list=$data/$name.list")
    fi
    number=$((number + 1))
  done
}

train_model() { # name of the YAML, checkpoint to start from (or nothing), then the names of the training lists
  local conf=$1 init=$2; shift 2
  local dir=$exp/$conf item args=() settings_of_lists=()
  local lists=("${@/#/$data/}")
  list_settings data.train "$@"
  list_settings data.dev dev
  for item in tokenizer.path="$data/tokenizer.model" "${settings_of_lists[@]}" "${settings[@]}"; do args+=(--set "$item"); done
  if [ -n "$init" ]; then args+=(--init "$init"); fi
  local made_from=(conf/base.yaml "conf/$conf.yaml" "${args[@]}" "$init" "${lists[@]/%/.list}")
  if ! is_trained "$dir" "${made_from[@]}"; then
    log "training $dir"
    launch osum_echat.bin.train --config "conf/$conf.yaml" --dir "$dir" "${args[@]}"
    mark_done "$dir" "${made_from[@]}"
  fi
}

decode_with() { # run directory, list, task, where to
  if is_done "$4" "$1/final.pt" "$2"; then return; fi
  if [ -e "$4/.done" ]; then rm -rf "$4"; fi # of another model or list; an unfinished one goes on
  python -m osum_echat.bin.decode --config "$1/train.yaml" --checkpoint "$1/final.pt" --list "$2" --task "$3" --out "$4"
  mark_done "$4" "$1/final.pt" "$2"
}

if stage -1 "synthesize the corpus"; then
  python -m osum_echat.bin.make_mini_corpus --preset "$preset" --out "$data" --seed "$seed" --num_processes "$nj"
fi

if stage 0 "check the data"; then
  for split in train dev test; do bash "$tools/validate_data_dir.sh" "$data/$split"; done
  lists=("$data"/{train_asr,train_asr_p,dev,test}.list)
  if ! is_done "$exp/doctor" "${lists[@]}"; then
    python -m osum_echat.bin.doctor --train "${lists[@]:0:2}" --dev "${lists[2]}" --test "${lists[3]}" --out "$exp/doctor" --num_jobs "$nj" \
      || { log "the data has errors, see $exp/doctor/doctor.html" >&2; exit 1; }
    mark_done "$exp/doctor" "${lists[@]}"
  fi
fi

if stage 1 "text tokenizer and backbones"; then
  if [ ! -e "$data/tokenizer.model" ]; then
    python "$tools/train_tokenizer.py" --list "$data/train_text.list" "$data/train_asr.list" --prompts mini --out "$data/tokenizer.model"
  fi
  data_type=raw train_model 1_backbone "" train_words train_text train_asr_p # shards come later
fi

if stage 2 "speech tokens"; then log "nothing to do yet: speech tokens arrive with speech generation (stage 5)"; fi

if stage 3 "shards, and a look at the sequences"; then
  if [ "$data_type" = shard ]; then
    for name in $sharded; do
      shards=$data/shards/$name
      if is_done "$shards" "$data/$name.list"; then continue; fi
      python "$tools/make_shard_list.py" --num_threads "$nj" --raw_list "$data/$name.list" "$shards" "$shards/data.list"
      mark_done "$shards" "$data/$name.list"
    done
  fi
  for name in train_text train_asr_p; do
    python "$tools/show_sequences.py" --list "$data/$name.list" --tokenizer "$data/tokenizer.model" --prompts mini --num 1
  done
fi

if stage 4 "understanding"; then
  train_model 1a_align "$exp/1_backbone/final.pt" train_asr
  train_model 1b_asr_p "$exp/1a_align/final.pt" train_asr train_asr_p
  train_model 1c_only_p "$exp/1b_asr_p/final.pt" train_asr train_asr_p
  for label in emotion event; do # one of them is missing in every row
    grep -v "\"$label\": " "$data/train_asr_p.list" >"$data/train_no_$label.list"
    decode_with "$exp/1c_only_p" "$data/train_no_$label.list" "$label" "$exp/1c_only_p/pseudo/$label"
  done
  python -m osum_echat.bin.pseudo_label --list "$data/train_asr_p.list" --decoded "$exp"/1c_only_p/pseudo/* --out "$data/train_full.list" \
    || { [ "$preset" = smoke ] && cp "$data/train_asr_p.list" "$data/train_full.list"; } # a smoke model may be too young to label anything
  train_model 1d_full_label "$exp/1c_only_p/final.pt" train_asr train_asr_p train_full
fi

if stage 7 "decode, score, report"; then
  decoded=$exp/1d_full_label/decode_asr_p
  decode_with "$exp/1d_full_label" "$data/test.list" asr_p "$decoded"
  python -m osum_echat.bin.score --ref "$data/test.list" --hyp "$decoded" --labels gender,age,emotion,event --prefix understand \
    --results "$exp/results.json" --train_list "$data/train_asr_p.list"
  python -m osum_echat.bin.report --dir "$exp"
fi
