#!/usr/bin/env bash
# Setup, then configures and builds everything; the tools are in build/bin.
# MOEC_PRESET=sanitize builds with the address and undefined-behaviour sanitizers
# into build-sanitize. Arguments go to the build (for example: --target moec).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh

preset=${MOEC_PRESET:-default}
cmake --preset "$preset" \
  -DPython3_EXECUTABLE="$PWD/.venv/bin/python"
cmake --build --preset "$preset" "$@"
