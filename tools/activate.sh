#!/usr/bin/env bash
# Sourced after tools/setup_env.sh: puts the project's python first on PATH (unless NO_VENV=1) and sets UTF-8.
OSUM_ECHAT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ "${NO_VENV:-0}" != 1 ]; then
  export PATH="$OSUM_ECHAT_ROOT/.venv/bin:$PATH"
fi
export OSUM_ECHAT_ROOT
export PYTHONPATH="$OSUM_ECHAT_ROOT${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONIOENCODING=UTF-8 PYTHONUNBUFFERED=1
export LC_ALL=${LC_ALL:-C.UTF-8}
