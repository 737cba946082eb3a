#!/usr/bin/env bash
# Build, then the main job: compiles the layers of a small trained MoE language
# model, runs them on recorded activations and compares with the recorded outputs
# and with ONNX Runtime; then compiles the whole model and writes text with it.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh
exec .venv/bin/python scripts/demo.py
