#!/usr/bin/env bash
# Build, then the main job: compiles the layers of a small trained MoE language
# model, runs them on recorded activations and compares with the recorded outputs
# and with ONNX Runtime.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh
exec .venv/bin/python scripts/demo.py
