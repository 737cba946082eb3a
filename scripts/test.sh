#!/usr/bin/env bash
# Build, then all tests: lit, GoogleTest (through ctest), pytest. A failing kind
# does not stop the next one. The last line counts the tests of all kinds.
# MOEC_PRESET=sanitize runs the same tests under the sanitizers, without the fuzz
# targets, which have sanitizers of their own. These run on the same inputs each time,
# about a minute, or for MOEC_FUZZ_SECONDS on others (0 replays the kept inputs).
set -uo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh || exit 1

build=build
if [ "${MOEC_PRESET:-default}" = sanitize ]; then
  build=build-sanitize
  # LLVM's arenas are not instrumented: poisoning by hand and container overflow
  # checks would report what is not there. A finding aborts: an exit status could be
  # one that a test of errors expects.
  export ASAN_OPTIONS=allow_user_poisoning=false:detect_container_overflow=0:abort_on_error=1:${ASAN_OPTIONS:-}
  export UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1:${UBSAN_OPTIONS:-}
fi
export MOEC_BUILD_DIR=$PWD/$build
results=$MOEC_BUILD_DIR/test-results
rm -rf "$results"
mkdir -p "$results"

echo "== lit"
.venv/bin/lit -sv --xunit-xml-output "$results/lit.xml" "$build/test"
echo "== GoogleTest"
ctest --test-dir "$build" --output-on-failure --no-tests=error \
  --output-junit "$results/googletest.xml" --parallel 2
echo "== pytest"
.venv/bin/python -m pytest test --junitxml "$results/pytest.xml"

reports=(lit.xml googletest.xml pytest.xml)
if [ "$build" = build ]; then
  echo "== fuzz"
  fuzz=(--fixed)
  [ -z "${MOEC_FUZZ_SECONDS:-}" ] || fuzz=(--seconds "$MOEC_FUZZ_SECONDS")
  MOEC_PRESET=fuzz scripts/build.sh &&
    .venv/bin/python test/fuzz/run.py "${fuzz[@]}" --junit "$results/fuzz.xml"
  reports+=(fuzz.xml)
fi

exec .venv/bin/python scripts/count_tests.py "${reports[@]/#/$results/}"
