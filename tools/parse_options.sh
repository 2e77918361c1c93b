#!/usr/bin/env bash
# Turns --name value and --name=value into shell variables of the script that sources this file (the manner of Kaldi and WeNet).
#
#   stage=0                # first stage to run
#   dir=exp/model          # where to write
#   . tools/parse_options.sh
#
# An option exists when the sourcing script assigns the variable at the start of a line above the line that sources this file;
# --some-name is the same as --some_name. A variable whose default is true or false takes only true or false. Parsing stops at
# the first word that is no option (or at --) and leaves the rest in "$@". --help prints the comment block at the top of the
# script, then every option with its default and the comment beside it. Unknown options name themselves and their nearest
# relatives, and end the script with status 2.

_po_script=${BASH_SOURCE[1]:-$0}
# "name<TAB>default<TAB>comment" of every option, read from the script itself so that help and parser cannot disagree.
_po_table=$(awk '
  /parse_options\.sh/ && !/^[[:space:]]*#/ { exit }
  /^[A-Za-z_][A-Za-z0-9_]*=/ {
    name = $0; sub(/=.*/, "", name); rest = substr($0, length(name) + 2); comment = ""
    if (match(rest, /[[:space:]]+#[[:space:]]*/)) { comment = substr(rest, RSTART + RLENGTH); rest = substr(rest, 1, RSTART - 1) }
    sub(/[[:space:]]+$/, "", rest); print name "\t" rest "\t" comment
  }' "$_po_script")

_po_help() {
  awk 'NR == 1 && /^#!/ { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$_po_script"
  printf '\nOptions (--name value or --name=value) and their defaults:\n'
  printf '%s\n' "$_po_table" | awk -F'\t' 'NF { printf "  --%-18s %-24s %s\n", $1, $2, $3 }'
}

_po_fail() {
  printf '%s: %s (--help lists the options)\n' "$(basename "$_po_script")" "$1" >&2
  exit 2
}

_po_near() { # options that share the first three letters, or that contain or are contained in the wrong name
  printf '%s\n' "$_po_table" | cut -f1 | awk -v bad="$1" '
    $0 != "" && (substr($0, 1, 3) == substr(bad, 1, 3) || index($0, bad) || index(bad, $0)) { out = out " --" $0 }
    END { if (out != "") print "; nearest:" out }'
}

_po_set() { # name value
  case "${!1:-}" in
    true | false)
      case "$2" in true | false) ;; *) _po_fail "--$1 takes true or false, got \"$2\"" ;; esac ;;
  esac
  printf -v "$1" '%s' "$2"
}

while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) _po_help; exit 0 ;;
    --) shift; break ;;
    --*)
      _po_name=${1#--}; _po_name=${_po_name%%=*}; _po_name=${_po_name//-/_}
      printf '%s\n' "$_po_table" | cut -f1 | grep -qx -- "$_po_name" \
        || _po_fail "unknown option --$_po_name$(_po_near "$_po_name")"
      case "$1" in
        *=*) _po_set "$_po_name" "${1#*=}"; shift ;;
        *)
          [ $# -ge 2 ] || _po_fail "option --$_po_name needs a value"
          case "$2" in --*) _po_fail "option --$_po_name needs a value, got the option $2 (write --$_po_name=$2 if it is meant)" ;; esac
          _po_set "$_po_name" "$2"; shift 2 ;;
      esac ;;
    *) break ;;
  esac
done
unset _po_script _po_table _po_name
unset -f _po_help _po_fail _po_near _po_set
