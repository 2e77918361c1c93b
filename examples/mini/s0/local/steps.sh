#!/usr/bin/env bash
# The steps that the stages of run.sh are made of; sourced by it, uses its variables. Each skips what is done (tools/stages.sh).
#
#   train_model NAME INIT LIST...       conf/NAME.yaml on data/LIST.list ..., from the checkpoint INIT or from nothing, into exp/NAME
#                                       (before it: dev="LIST ...", which lists are scored meanwhile; as=RUN, another name of the run)
#   write_speech_tokens LIST...         data/LIST.list with the speech tokens of what the assistant says, to data/speech/LIST.list
#   train_generation FROM               2a to 2d, behind the run FROM
#   train_empathy NAME FROM [LIST]      conf/NAME.yaml on the dialogues (or those of LIST), behind the run FROM
#   train_ablations                     3a with paragraphs; without thinking; from dialogues that tell all labels, or hardly any; with and
#                                       without thinking once more behind a model that never learned a label before
#   decode_with RUN LIST TASK OUT       answers of exp/RUN to a list (a fifth word: which audio of a row is heard)
#   speak_and_listen LIST DIR           speech tokens to DIR/speech, what the model of 1d hears there to DIR/heard
#   score_speech PREFIX LIST DIR ...    scores of that; more words are options of `osum-echat score speech`
#   answer_fittingly RUN TASK VARIANT   replies of exp/RUN to the empathetic test dialogues, judged by rules, and what was noted before them
#   score_understanding RUN PREFIX, score_generation, score_empathy     all that is measured of stages 4, 5 and 6

sharded="train_asr train_asr_p dev" # lists that stage 3 writes as shards; the others are read as they are
labelled="train_asr_p train_full train_questions" # with $only_asr their rows are transcribed, and no label is learned
list_settings() { # data.train or data.dev, then names of lists
  local where=$1 number=0 name; shift
  for name in "$@"; do
    if [ "$data_type" = shard ] && [[ " $sharded " = *" $name "* ]]; then
      settings_of_lists+=("$where.$number.kind=shard" "$where.$number.list=$data/shards/$name/data.list")
    else
      settings_of_lists+=("$where.$number.kind=raw" "$where.$number.list=$data/$name.list")
    fi
    if ${only_asr:-false} && [[ " $labelled " = *" $name "* ]]; then settings_of_lists+=("$where.$number.task=asr"); fi
    number=$((number + 1))
  done
}

train_model() { # name of the YAML, checkpoint to start from (or nothing), then the names of the training lists; $dev: those of the dev lists
  local conf=$1 init=$2; shift 2
  local dir=$exp/${as:-$conf} item args=() settings_of_lists=()
  local lists=("${@/#/$data/}")
  list_settings data.train "$@"
  # shellcheck disable=SC2086 # words
  list_settings data.dev ${dev:-dev}
  case $conf in 2_*) ;; *) args+=(--set tokenizer.path="$data/tokenizer.model") ;; esac
  for item in "${settings_of_lists[@]}" "${settings[@]}"; do args+=(--set "$item"); done
  if [ -n "$init" ]; then args+=(--init "$init"); fi
  local made_from=(conf/base.yaml "conf/$conf.yaml" "${args[@]}" "$init" "${lists[@]/%/.list}")
  if ! is_trained "$dir" "${made_from[@]}"; then
    log "training $dir"
    launch osum_echat.bin.train --config "conf/$conf.yaml" --dir "$dir" "${args[@]}"
    mark_done "$dir" "${made_from[@]}"
  fi
}

write_speech_tokens() { # names of lists
  local name tokenizer=$exp/2_speech_tokenizer
  for name in "$@"; do
    if is_done "$data/speech/$name" "$tokenizer/final.pt" "$data/$name.list"; then continue; fi
    python -m osum_echat.bin.main prepare speech-tokens --config "$tokenizer/train.yaml" --audio answer_wav --num_jobs "$nj" \
      --checkpoint "$tokenizer/final.pt" --list "$data/$name.list" --out "$data/speech/$name.list"
    mark_done "$data/speech/$name" "$tokenizer/final.pt" "$data/$name.list"
  done
}

train_generation() { # run to start from
  local understand="train_asr_p train_full"
  # shellcheck disable=SC2086 # words
  {
    dev=speech/dev_tts train_model 2a_tts "$1/final.pt" speech/train_tts train_t2t $understand
    dev=speech/dev_tts train_model 2b_tts_interleaved "$exp/2a_tts/final.pt" speech/train_tts train_t2t $understand
    dev=speech/dev_s2s train_model 2c_s2s "$exp/2b_tts_interleaved/final.pt" speech/train_s2s speech/train_tts train_t2t $understand
    dev=speech/dev_s2s train_model 2d_s2s_interleaved "$exp/2c_s2s/final.pt" speech/train_s2s speech/train_tts train_t2t $understand
  }
}

train_empathy() { # name of the YAML, run to start from, list of the dialogues
  local dev=speech/dev_empathy
  if [ "$1" = 3b_direct ]; then dev="$dev $dev"; fi # with notes, and without
  train_model "$1" "$2/final.pt" "speech/${3:-train_empathy}" speech/train_{s2s,tts} train_{t2t,empathy_text,asr_p,full}
}

train_ablations() { # in <exp>/asr_only stage 4 is transcription alone (1b, no 1c and 1d), and so are its rows later on
  train_empathy 3a_language "$exp/2d_s2s_interleaved"
  train_empathy 3a_no_think "$exp/2d_s2s_interleaved"
  local labels
  for labels in all_labels one_label; do
    write_speech_tokens "train_empathy_$labels"
    as=3a_$labels train_empathy 3a_think "$exp/2d_s2s_interleaved" "train_empathy_$labels"
  done
  local full=$exp only_asr=true
  local exp=$full/asr_only
  train_model 1b_asr_p "$full/1a_align/final.pt" train_asr_p train_questions train_assistant
  train_generation "$exp/1b_asr_p"
  train_empathy 3a_think "$exp/2d_s2s_interleaved"
  train_empathy 3a_no_think "$exp/2d_s2s_interleaved"
}

decode_with() { # run directory, list, task, where to
  if is_done "$4" "$1/final.pt" "$2"; then return; fi
  if [ -e "$4/.done" ]; then rm -rf "$4"; fi # of another model or list; an unfinished one goes on
  python -m osum_echat.bin.decode --config "$1/train.yaml" --checkpoint "$1/final.pt" --list "$2" --task "$3" --out "$4" --audio "${5:-wav}"
  mark_done "$4" "$1/final.pt" "$2"
}

speak_and_listen() { # list with speech tokens, folder: its sound goes to <folder>/speech, what the model of 1d hears in it to <folder>/heard
  local made_from=("$exp/2_flow/final.pt" "$exp/2_vocoder/final.pt" "$1")
  if ! is_done "$2/speech" "${made_from[@]}"; then
    if [ -e "$2/speech/.done" ]; then rm -rf "$2/speech"; fi
    python -m osum_echat.bin.main synthesize --list "$1" --flow "$exp/2_flow" --vocoder "$exp/2_vocoder" --out "$2/speech"
    mark_done "$2/speech" "${made_from[@]}"
  fi
  decode_with "$exp/1d_full_label" "$2/speech/data.list" asr "$2/heard"
}

score_speech() { # prefix of the scores, list, folder of speak_and_listen, more options
  local prefix=$1 list=$2 folder=$3; shift 3
  python -m osum_echat.bin.main score speech --ref "$list" --synthesized "$folder/speech" --heard "$folder/heard" --prefix "$prefix" \
    --results "$exp/results.json" "$@"
}

answer_fittingly() { # name of the run, task, ending of the scores (none: the full model); nothing when it is not trained
  if [ ! -e "$exp/$1/final.pt" ]; then return; fi
  local decoded=$exp/$1/echat_$2
  decode_with "$exp/$1" "$data/test_empathy.list" "$2" "$decoded"
  python -m osum_echat.bin.main score echat --ref "$data/test_empathy.list" --hyp "$decoded" --judge rule --results "$exp/results.json" \
    ${3:+--variant "$3"}
  case $2:${3:-} in *:language) ;; *_think:*) # a paragraph has no parts to score
    python -m osum_echat.bin.score --ref "$data/test_empathy.list" --hyp "$decoded" --labels gender,age,emotion,event \
      --prefix "think${3:+_$3}" --results "$exp/results.json" --train_list "$data/train_empathy.list" ;;
  esac
}

score_understanding() { # name of the run, prefix of the scores; nothing when it is not trained yet
  if [ ! -e "$exp/$1/final.pt" ]; then return; fi
  decode_with "$exp/$1" "$data/test.list" asr_p "$exp/$1/decode_asr_p"
  python -m osum_echat.bin.score --ref "$data/test.list" --hyp "$exp/$1/decode_asr_p" --labels gender,age,emotion,event \
    --prefix "$2" --results "$exp/results.json" --train_list "$data/train_asr_p.list"
}

score_generation() {
  local task decoded list
  decode_with "$exp/1d_full_label" "$data/test_tts.list" asr "$exp/tokens/recordings" answer_wav
  speak_and_listen "$data/speech/test_tts.list" "$exp/tokens"
  score_speech tokens "$data/test_tts.list" "$exp/tokens" --heard_in_recordings "$exp/tokens/recordings" --out "$exp/tokens"
  for task in tts tts_interleaved s2s s2s_interleaved; do
    decoded=$exp/2d_s2s_interleaved/decode_$task list=$data/test_${task%%_*}.list
    decode_with "$exp/2d_s2s_interleaved" "$list" "$task" "$decoded"
    speak_and_listen "$decoded/hyp.list" "$decoded"
    score_speech "$task" "$list" "$decoded" --hyp "$decoded"
  done
  python "$tools/bench/bench_first_audio.py" --dir "$exp/2d_s2s_interleaved" --list "$data/test_s2s.list" --num 20 --results "$exp/results.json"
}

score_empathy() { # of the full system and whatever else is trained
  answer_fittingly 3a_think s2s_think
  answer_fittingly 3b_direct s2s direct
  answer_fittingly 3a_language s2s_think language
  answer_fittingly 3a_no_think s2s no_think
  answer_fittingly 3a_all_labels s2s_think all_labels
  answer_fittingly 3a_one_label s2s_think one_label
  answer_fittingly asr_only/3a_think s2s_think no_understanding
  answer_fittingly asr_only/3a_no_think s2s neither
}
