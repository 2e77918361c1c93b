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
#    2   speech tokenizer, speech tokens of what the assistant says              exp/<preset>/2_speech_tokenizer, data/<preset>/speech
#        from tokens to mel, from mel to sound                                   exp/<preset>/2_flow, 2_vocoder
#    3   tar shards; a look at the token sequences                               data/<preset>/shards
#    4   understanding: 1a align, 1b ASR+P, 1c only-P, pseudo labels, 1d all     exp/<preset>/1a_align ... 1d_full_label
#    5   generation: 2a TTS, 2b interleaved, 2c spoken replies, 2d interleaved   exp/<preset>/2a_tts ... 2d_s2s_interleaved
#    6   empathy: 3a notes what is heard, then answers, 3b answers at once      exp/<preset>/3a_think, 3b_direct
#    7   decode the test sets, listen to what was said, score, report            exp/<preset>/results.json, report.html
#    8   export: the model of 3b and its voice, to run without Python          exp/<preset>/bundle
# Numbers 9 and 10 are kept for stages that do not exist yet; a --stop_stage beyond 8 runs what exists.
# Finished work is skipped, an interrupted training goes on from its last checkpoint. Paths in options are seen from this folder.
set -euo pipefail

stage=-1                # first stage to run
stop_stage=8            # last stage to run
preset=default          # default or smoke
nj=2                    # processes for making and checking data
data=data               # the corpus is put into <data>/<preset>
exp=exp                 # models and results are put into <exp>/<preset>
data_type=shard         # what training reads: raw or shard
seed=777                # of the corpus, the initial weights and the data order
dtype=                  # float32 or bfloat16; empty: as the YAML says
ablations=false         # true: stage 6 also trains what the full system is compared with (an hour), stage 7 scores it
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
    settings+=(train.max_steps=20 train.schedule.warmup_steps=5 train.log_every=10 train.save_every=10) ;;
  *) echo "run.sh: --preset must be default or smoke, got $preset" >&2; exit 2 ;;
esac
for item in $overrides; do settings+=("$item"); done
case $ablations in true | false) ;; *) echo "run.sh: --ablations must be true or false, got $ablations" >&2; exit 2 ;; esac
case $data_type in raw | shard) ;; *) echo "run.sh: --data_type must be raw or shard, got $data_type" >&2; exit 2 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")"
bash ../../../tools/setup_env.sh
. ./path.sh
. "$tools/stages.sh"
data=$data/$preset
exp=$exp/$preset
. ./local/steps.sh
log "mini recipe in $PWD, preset $preset: stages $stage to $stop_stage; data in $data, models in $exp"

if stage -1 "synthesize the corpus"; then
  python -m osum_echat.bin.make_mini_corpus --preset "$preset" --out "$data" --seed "$seed" --num_processes "$nj"
fi

if stage 0 "check the data"; then
  for split in train dev test; do bash "$tools/validate_data_dir.sh" "$data/$split"; done
  lists=("$data"/{train_asr,train_asr_p,train_questions,train_assistant,train_tts,train_s2s,train_t2t,train_empathy,dev,dev_tts,dev_s2s,dev_empathy,test,test_tts,test_s2s,test_empathy}.list)
  if ! is_done "$exp/doctor" "${lists[@]}"; then
    python -m osum_echat.bin.doctor --train "${lists[@]:0:8}" --dev "${lists[@]:8:4}" --test "${lists[@]:12:4}" --out "$exp/doctor" --num_jobs "$nj" \
      || { log "the data has errors, see $exp/doctor/doctor.html" >&2; exit 1; }
    mark_done "$exp/doctor" "${lists[@]}"
  fi
fi

if stage 1 "text tokenizer and backbones"; then
  if [ ! -e "$data/tokenizer.model" ]; then
    python "$tools/train_tokenizer.py" --list "$data"/train_{text,asr,empathy}.list --prompts mini --out "$data/tokenizer.model"
  fi
  data_type=raw train_model 1_backbone "" train_words train_text train_asr_p train_questions train_assistant # shards come later
fi

if stage 2 "speech tokens, and from them to sound"; then
  data_type=raw train_model 2_speech_tokenizer "$exp/1_backbone/final.pt" train_asr train_assistant
  write_speech_tokens {train,dev,test}_{tts,s2s} {train,dev}_empathy
  dev=speech/dev_tts train_model 2_flow "" speech/train_tts
  dev=speech/dev_tts train_model 2_vocoder "" speech/train_tts
fi

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
  train_model 1b_asr_p "$exp/1a_align/final.pt" train_asr_p train_questions train_assistant
  train_model 1c_only_p "$exp/1b_asr_p/final.pt" train_asr_p train_questions train_assistant
  for label in emotion event; do # one of them is missing in every row
    grep -v "\"$label\": " "$data/train_asr_p.list" >"$data/train_no_$label.list"
    decode_with "$exp/1c_only_p" "$data/train_no_$label.list" "$label" "$exp/1c_only_p/pseudo/$label"
  done
  python -m osum_echat.bin.pseudo_label --list "$data/train_asr_p.list" --decoded "$exp"/1c_only_p/pseudo/* --out "$data/train_full.list" \
    || { [ "$preset" = smoke ] && cp "$data/train_asr_p.list" "$data/train_full.list"; } # a smoke model may be too young to label anything
  train_model 1d_full_label "$exp/1c_only_p/final.pt" train_asr_p train_full train_questions train_assistant
fi

if stage 5 "generation"; then
  train_generation "$exp/1d_full_label"
fi

if stage 6 "empathy"; then
  train_empathy 3a_think "$exp/2d_s2s_interleaved"
  train_empathy 3b_direct "$exp/3a_think"
  if $ablations; then train_ablations; fi
fi

if stage 7 "decode, score, report"; then
  score_understanding 1d_full_label understand
  score_understanding 2d_s2s_interleaved understand_2d # does it still know what it knew before it learned to speak?
  if [ -e "$exp/2d_s2s_interleaved/final.pt" ]; then score_generation; fi
  if [ -e "$exp/3a_think/final.pt" ]; then score_empathy; fi
  python -m osum_echat.bin.report --dir "$exp" --targets targets.yaml
fi

if stage 8 "export"; then
  if ! is_done "$exp/bundle" "$exp"/{3b_direct,2_flow,2_vocoder}/final.pt; then
    python -m osum_echat.bin.main export --dir "$exp/3b_direct" --out "$exp/bundle" --list "$data/test_s2s.list" # compared with the model itself
    mark_done "$exp/bundle" "$exp"/{3b_direct,2_flow,2_vocoder}/final.pt
  fi
fi
