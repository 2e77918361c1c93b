# Sourced by run.sh, and by hand for working in a shell: . ./path.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../../tools/activate.sh"
tools=$OSUM_ECHAT_ROOT/tools
