#!/usr/bin/env bash
# All tests of the project, set-up of the environment included.
#
#   bash test/run.sh           lint, types, unit tests, then the slow ones: recipes, resume after kill, two processes
#   bash test/run.sh --fast    lint, types and unit tests only
#   bash test/run.sh --no-venv uses the active Python environment instead of .venv
#
# Further arguments go to pytest, e.g. bash test/run.sh --fast -k doctor. Ends with pytest's summary line; status 0 when all is well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fast=false
pytest_args=()
for arg in "$@"; do
  case "$arg" in
    --fast) fast=true ;;
    --no-venv) export NO_VENV=1 ;;
    -h | --help) awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"; exit 0 ;;
    *) pytest_args+=("$arg") ;;
  esac
done

bash tools/setup_env.sh
. tools/activate.sh

step() { printf '\n== %s (%d s since the start)\n' "$*" "$SECONDS"; }
step "ruff"; python -m ruff check .
step "mypy"; python -m mypy
step "pytest"
if $fast; then
  exec python -m pytest -m "not slow" ${pytest_args[@]+"${pytest_args[@]}"}
fi
exec python -m pytest --durations=8 ${pytest_args[@]+"${pytest_args[@]}"} # test/conftest.py puts the slow ones last
