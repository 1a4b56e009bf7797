#!/bin/sh
# llama.sh VENV auto|cpu|cuda: compiles llama-cpp-python for this machine into VENV, unless that is
# done already.
#
# CMAKE_ARGS from the environment are added to ours, and a change of them builds anew too.
set -eu
venv=$1
here=$(dirname "$0")
lock=$here/requirements-llama.txt
stamp=$venv/.installed-llama
export PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"

choice=$(sh "$here/accel.sh" "$2")
accel=${choice%% *}
case $accel in
cuda) export CMAKE_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native ${CMAKE_ARGS:-}" ;;
cpu) export CMAKE_ARGS="${CMAKE_ARGS:-}" ;;
esac

wanted="$accel '$CMAKE_ARGS' $(cksum <"$lock")"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

compiler=${CXX:-c++}
command -v "${compiler%% *}" >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 ||
    command -v clang++ >/dev/null 2>&1 || {
    echo "error: no C++ compiler found, and llama.cpp has to be compiled." \
        "On Debian and Ubuntu: apt-get install g++" >&2
    exit 1
}

set -- install --verbose --no-deps --require-hashes --requirement "$lock"
if [ -f "$stamp" ] || [ -n "$CMAKE_ARGS" ]; then
    set -- "$@" --force-reinstall
fi
if [ -n "$CMAKE_ARGS" ]; then
    # pip's cache of built wheels ignores build flags: a build with flags gets a cache of its own.
    cache=$("$venv/bin/python" -m pip cache dir)
    set -- "$@" --cache-dir "$cache/gguf-worker/$(printf %s "$CMAKE_ARGS" | cksum | tr ' ' -)"
fi
sh "$here/progress.sh" \
    "Building llama-cpp-python for $accel (${choice#* }); minutes the first time" \
    "$venv/bin/python" -m pip --disable-pip-version-check "$@"
echo "$wanted" >"$stamp"
