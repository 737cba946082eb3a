#!/usr/bin/env bash
# Setup, then configures and builds everything; the tools are in build/bin.
# MOEC_PRESET=sanitize builds with the address and undefined-behaviour sanitizers
# into build-sanitize. Arguments go to the build (for example: --target moec).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh

# The test of the wheel builds the same in another folder: see test/Python/test_wheel.py.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=true

preset=${MOEC_PRESET:-default}
cmake --preset "$preset" \
  -DPython3_EXECUTABLE="$PWD/.venv/bin/python"
cmake --build --preset "$preset" "$@"
