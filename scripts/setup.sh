#!/usr/bin/env bash
# Installs what building and testing need: Debian packages, and a Python
# environment in .venv. Only what is missing is installed, so a second run does
# nothing. Made for Debian 12, as root or with sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  # LLVM and MLIR: the CMake files of -dev name files of the -tools packages.
  libmlir-22-dev mlir-22-tools llvm-22-dev llvm-22-tools llvm-22-linker-tools
  clang-22 lld-22 libomp-22-dev libclang-rt-22-dev
  # Build tools; g++ brings the C++ standard library.
  cmake ninja-build ccache g++ git
  # The ONNX reader and the unit tests.
  libprotobuf-dev protobuf-compiler libgtest-dev libgmock-dev zlib1g-dev
  # ldd, readelf and other CPUs for the tests, and the Python environment.
  binutils libc-bin qemu-user python3 python3-venv
)

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "setup.sh: needs root or sudo to run: $*" >&2
    exit 1
  fi
}

install_packages() {
  local missing=()
  local package
  for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null; then
    echo "setup.sh: not a Debian system; install by hand: ${missing[*]}" >&2
    exit 1
  fi
  echo "setup.sh: installing ${missing[*]}"
  as_root apt-get update
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends "${missing[@]}"
}

# The stamp says which requirements the environment was made from.
make_python_environment() {
  local stamp=.venv/requirements.sha256
  local wanted
  wanted=$(sha256sum <python/requirements.txt)
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  echo "setup.sh: making the Python environment .venv"
  /usr/bin/python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r python/requirements.txt
  echo "$wanted" >"$stamp"
}

install_packages
make_python_environment
