#!/usr/bin/env bash
# Checks a Kaldi data directory without opening audio: wav.scp text segments utt2* spk2utt (docs/data_formats.md).
#
#   tools/validate_data_dir.sh [--no-text] [--no-wav] <dir>
#
# --no-text allows utterances without a transcript file, --no-wav skips the check that recordings exist.
# Names the file and line of everything that is wrong, ends with status 1 when anything was.
set -euo pipefail

need_text=true
need_wav=true
while [ $# -gt 0 ]; do
  case "$1" in
    --no-text) need_text=false; shift ;;
    --no-wav) need_wav=false; shift ;;
    -h | --help) awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) echo "validate_data_dir.sh: unknown option $1" >&2; exit 2 ;;
    *) break ;;
  esac
done
[ $# -eq 1 ] || { echo "usage: validate_data_dir.sh [--no-text] [--no-wav] <dir>" >&2; exit 2; }
dir=$1
failed=false

bad() { echo "$*" >&2; failed=true; }

check_table() { # every line has a key and a value, keys are unique
  local file=$1 allow_empty=${2:-false}
  awk -v file="$file" -v allow_empty="$allow_empty" '
    NF == 0 { next }
    NF == 1 && allow_empty != "true" { print file ":" NR ": key " $1 " has no value"; status = 1 }
    $1 in seen { print file ":" NR ": key " $1 " was already given in line " seen[$1]; status = 1 }
    !($1 in seen) { seen[$1] = NR }
    END { if (length(seen) == 0) { print file ": is empty"; status = 1 } exit status }
  ' "$file" >&2 || failed=true
}

check_keys() { # keys of the first file that the second lacks
  local file=$1 other=$2
  awk -v file="$file" -v other="$other" '
    NR == FNR { known[$1]; next }
    NF && !($1 in known) { if (++num <= 5) print file ":" FNR ": key " $1 " is not in " other }
    END { if (num > 5) print file ": " num - 5 " more keys are not in " other; exit num > 0 }
  ' "$other" "$file" >&2 || failed=true
}

[ -f "$dir/wav.scp" ] || { echo "$dir/wav.scp: no such file; a Kaldi data directory needs it" >&2; exit 1; }
check_table "$dir/wav.scp"
keys=$dir/wav.scp
if [ -f "$dir/segments" ]; then
  check_table "$dir/segments"
  awk -v file="$dir/segments" '
    NF && (NF != 4 || $3 !~ /^[0-9.]+$/ || $4 !~ /^(-1|[0-9.]+)$/ || ($4 != -1 && $4 + 0 <= $3 + 0)) {
      print file ":" NR ": expected key recording start end with start < end, got: " $0; status = 1 }
    END { exit status }' "$dir/segments" >&2 || failed=true
  awk -v file="$dir/segments" 'NR == FNR { known[$1]; next } NF && !($2 in known) { print file ":" FNR ": recording " $2 " is not in wav.scp"; s = 1 } END { exit s }' \
    "$dir/wav.scp" "$dir/segments" >&2 || failed=true
  keys=$dir/segments
fi
if [ -f "$dir/text" ]; then
  check_table "$dir/text" true
  check_keys "$dir/text" "$keys"
  check_keys "$keys" "$dir/text"
elif $need_text; then
  bad "$dir/text: no such file (--no-text allows that)"
fi
for file in "$dir"/utt2*; do
  [ -f "$file" ] || continue
  check_table "$file"
  check_keys "$file" "$keys"
done
if [ -f "$dir/utt2spk" ]; then check_keys "$keys" "$dir/utt2spk"; fi
if [ -f "$dir/spk2utt" ] && [ -f "$dir/utt2spk" ]; then
  diff <(awk '{ for (i = 2; i <= NF; i++) print $i, $1 }' "$dir/spk2utt" | LC_ALL=C sort) <(awk 'NF { print $1, $2 }' "$dir/utt2spk" | LC_ALL=C sort) >/dev/null \
    || bad "$dir/spk2utt and $dir/utt2spk disagree"
fi
if $need_wav; then
  while read -r key path; do
    case "$path" in
      *\|) continue ;;
      *.ark:*) path=${path%:*} ;;
    esac
    [ -f "$path" ] || bad "$dir/wav.scp: $path of key $key does not exist"
  done < <(awk 'NF > 1' "$dir/wav.scp")
fi

if $failed; then echo "$dir: not a valid data directory, see above" >&2; exit 1; fi
echo "$dir: $(awk 'NF' "$keys" | wc -l) utterances, fine"
