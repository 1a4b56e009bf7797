#!/bin/sh
# accel.sh auto|cpu|cuda: prints what to build llama-cpp-python for, cpu or cuda, and why.
set -eu
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin

has_compiler() { command -v nvcc >/dev/null 2>&1; }
has_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

case ${1:-} in
cpu)
    echo "cpu as asked for"
    ;;
cuda)
    has_compiler || {
        printf '%s ' >&2 "error: ACCEL=cuda needs the CUDA compiler," \
            "and there is no nvcc on PATH or in CUDA_HOME."
        echo "Install the CUDA toolkit, or use ACCEL=cpu." >&2
        exit 1
    }
    echo "cuda as asked for"
    ;;
auto)
    if ! has_gpu; then
        echo "cpu no NVIDIA GPU found"
    elif ! has_compiler; then
        echo "cpu there is a GPU but no CUDA compiler (nvcc)"
    else
        echo "cuda a GPU and a CUDA compiler found"
    fi
    ;;
*)
    echo "error: ACCEL is '${1:-}'; it can be auto, cpu or cuda." >&2
    exit 1
    ;;
esac
