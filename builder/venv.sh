#!/bin/sh
# venv.sh PYTHON VENV: makes the virtual environment, or says what is missing for one.
set -eu
python=$1
venv=$2

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "there is no '$python' here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"
version=$("$python" -c 'import platform; print(platform.python_version())') ||
    fail "'$python' does not run. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "'$python' is Python $version; 3.11 or newer is needed. Name a newer one: make PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "'$python' (Python $version) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"

echo "==> Making $venv with Python $version"
"$python" -m venv --clear "$venv"
