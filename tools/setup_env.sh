#!/usr/bin/env bash
# Creates or refreshes the Python environment of this project. Safe to call at any time: does nothing when nothing changed.
#
#   bash tools/setup_env.sh             .venv at the top of the repository (what the recipes and test/run.sh call)
#   bash tools/setup_env.sh --no-venv   no .venv: uses the python found first on PATH, e.g. an active conda environment
#                                       (NO_VENV=1 in the environment does the same, for the recipes too)
#
# Environment variables:
#   PYTHON           interpreter to build .venv from (default: the newest of python3, python3.13 ... python3.10 that is >= 3.10)
#   TORCH_SPEC       which build of the pinned torch (default: torch==2.13.0; e.g. torch==2.13.0+cu126)
#   TORCH_PIP_ARGS   further pip arguments for torch alone, e.g. "--index-url https://download.pytorch.org/whl/cu126". When unset
#                    and the machine has no NVIDIA GPU, and pip's own index offers the CUDA build, the CPU build is asked for
#                    from download.pytorch.org instead: nobody without a GPU downloads gigabytes of CUDA.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TORCH_SPEC=${TORCH_SPEC:-torch==2.13.0}
CPU_INDEX=https://download.pytorch.org/whl/cpu
NO_VENV=${NO_VENV:-0}
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\033[2m[setup] %s\033[0m\n' "$*" >&2; }
die() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }

for arg in "$@"; do
  case "$arg" in
    --no-venv) NO_VENV=1 ;;
    -h | --help) awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown argument $arg (known: --no-venv, --help)" ;;
  esac
done

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then command -v "$candidate"; return; fi
  done
  die "Python >= 3.10 is needed; looked at: ${PYTHON:-python3 python3.13 ... python3.10 python} ($(python3 --version 2>&1 || true)).
  Install one (e.g. apt install python3.11 python3.11-venv) or name it: PYTHON=/path/to/python3.11 bash $0"
}

if [ "$NO_VENV" = 1 ]; then
  python=$(find_python)
else
  python=$ROOT/.venv/bin/python
  if [ ! -x "$python" ]; then
    base=$(find_python)
    say "creating $ROOT/.venv from $base ($("$base" --version))"
    "$base" -m venv "$ROOT/.venv" || { rm -rf "$ROOT/.venv"; die "cannot create a virtual environment; on Debian/Ubuntu: apt install python3-venv"; }
  fi
  is_new_enough "$python" || die "$python is older than 3.10: remove $ROOT/.venv and run this again"
fi

# The stamp changes with anything that decides what is installed.
hash=$(cat "$ROOT/requirements.txt" "$ROOT/setup.py" "${BASH_SOURCE[0]}" <(echo "$TORCH_SPEC ${TORCH_PIP_ARGS:-} $ROOT") | cksum | cut -d' ' -f1)
stamp=$("$python" -c 'import sys; print(sys.prefix)')/.setup-$hash
if [ -e "$stamp" ]; then exit 0; fi

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

default_torch_is_cuda() { # asks pip's index for metadata only; any failure counts as "no" so that mirrors without it still work
  local report; report=$(mktemp)
  "$python" -m pip install --quiet --dry-run --no-deps --ignore-installed --report "$report" "$TORCH_SPEC" 2>/dev/null \
    && grep -qiE '"(nvidia|cuda)[-_a-z0-9]*' "$report"
  local status=$?; rm -f "$report"; return $status
}

pip_install() { # what, then pip's arguments; pip's output is shown only when it fails
  local what=$1 log; shift; log=$(mktemp)
  say "installing $what"
  if ! "$python" -m pip install --progress-bar off "$@" >"$log" 2>&1; then
    tail -n 30 "$log" >&2; die "pip could not install $what (full log: $log)"
  fi
  rm -f "$log"
}

started=$SECONDS
read -r -a torch_args <<<"${TORCH_PIP_ARGS:-}"
if ! "$python" -c "import importlib.metadata as m; v = m.version('torch').split('+')[0]; raise SystemExit('$TORCH_SPEC' != 'torch==' + v)" 2>/dev/null; then
  if [ -z "${TORCH_PIP_ARGS+x}" ] && [ "$(uname -s)" = Linux ] && ! has_gpu && default_torch_is_cuda; then
    say "no NVIDIA GPU here: taking the CPU build of torch from $CPU_INDEX"
    torch_args=(--index-url "$CPU_INDEX")
  fi
  pip_install "$TORCH_SPEC (this is the large one)" ${torch_args[@]+"${torch_args[@]}"} "$TORCH_SPEC"
fi
pip_install "osum_echat with extras mini and test" -e "$ROOT[mini,test]"
# A test oracle only. Its dependencies (numba, triton, tiktoken: 300 MB) serve word timing and tokens, which no test here uses.
pip_install "openai-whisper, without its dependencies (oracle of the parity tests)" --no-deps openai-whisper==20250625
rm -f "$(dirname "$stamp")"/.setup-*
touch "$stamp" 2>/dev/null || say "cannot write $stamp: the check will run again next time"
say "ready in $((SECONDS - started)) s: $("$python" --version), torch $("$python" -c 'import importlib.metadata as m; print(m.version("torch"))')"
