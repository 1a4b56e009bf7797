#!/bin/sh
# venv.sh PYTHON VENV: makes the virtual environment, or says what it needs.
set -eu
python=$1
venv=$2

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

hint="Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"
command -v "$python" >/dev/null 2>&1 || fail "there is no '$python' here. $hint"
version=$("$python" -c 'import platform; print(platform.python_version())') ||
    fail "'$python' does not run. $hint"
newer="3.11 or newer is needed. Name a newer one: make PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "'$python' is Python $version; $newer"
hint="On Debian and Ubuntu: apt-get install python3-venv"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "'$python' (Python $version) cannot make virtual environments. $hint"

echo "==> Making $venv with Python $version"
"$python" -m venv --clear "$venv"
