#!/usr/bin/env bash
# Measures training, inference and the loader on one GPU in at most eight minutes; started again, it goes on where it
# stopped. benchmarks/gpu.sh --help says what it measures and what can be changed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
if ! "$python" -c 'import vit_jax, jax' 2>/dev/null; then
  echo "gpu.sh: '$python' does not have vit_jax: $python -m pip install -e '.[cuda13]', or cuda12 for older drivers" >&2
  exit 2
fi
# All but the driver's own share, and the same in every cell, so that "does not fit" means the same.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
exec "$python" -m benchmarks.gpu "$@"
