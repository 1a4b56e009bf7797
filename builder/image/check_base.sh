#!/bin/sh
# check_base.sh cpu|cuda [ARCHITECTURES]: says whether an image can be the Dockerfile's BASE_IMAGE,
# the one in which llama.cpp is compiled. Exits with 1 where something is missing.
#
#     docker run --rm --volume "$PWD/builder/image:/build:ro" nvidia/cuda:12.8.1-devel-ubuntu22.04 \
#         sh /build/check_base.sh cuda '80;90-real'
set -u
accel=$1
architectures=${2:-}
toolkit=/usr/local/cuda
failed=0

has() {
    printf '    ok  %s\n' "$*"
}

lacks() {
    printf 'error: this base cannot compile llama.cpp: %s\n' "$*" >&2
    failed=1
}

system() {
    # shellcheck source=/dev/null
    . /etc/os-release || return
    machine=$(uname -m)
    [ "$machine" = x86_64 ] || lacks "it is for $machine, and the image is for x86_64."
    has "${PRETTY_NAME:-$ID}, $(getconf GNU_LIBC_VERSION): RUNTIME_IMAGE's must not be older"
}

# What is missing of these is installed by compile.sh, if the system has apt.
programs() {
    missing=
    command -v c++ >/dev/null || missing="a C++ compiler"
    python3 -c 'import ensurepip, venv' 2>/dev/null ||
        missing="${missing:+$missing and }Python with venv"
    if [ -z "$missing" ]; then
        has "$(c++ --version | head -n 1), $(python3 --version)"
    elif command -v apt-get >/dev/null; then
        has "$missing: to be installed by apt-get"
    else
        lacks "it has neither $missing nor apt-get."
    fi
}

compiler() {
    version=$("$toolkit/bin/nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
    if [ -z "$version" ]; then
        lacks "$toolkit/bin/nvcc does not run. Choose an image with CUDA's compiler (devel)."
        return
    fi
    major=${version%%.*} minor=${version#*.}
    [ $((100 * major + minor)) -ge 1208 ] ||
        lacks "CUDA $version is too old: Blackwell, and small code, need 12.8."
    has "CUDA $version"
    codes=$("$toolkit/bin/nvcc" --list-gpu-code | tr '\n' ' ')
    for each in $(echo "$architectures" | tr ';' ' '); do
        number=${each%-*}
        case " $codes" in
        *" sm_${number%[af]} "*) has "architecture $each" ;;
        *) lacks "CUDA $version has no architecture $each, only: $codes" ;;
        esac
    done
}

files() {
    for name in libcudart libcublas libcublasLt; do
        found=$(find "$toolkit/lib64/" -name "$name.so.1[0-9]" | wc -l)
        [ "$found" -eq 1 ] || lacks "$toolkit/lib64 has $found libraries $name.so.1*, not one."
        [ -e "$toolkit/lib64/$name.so" ] || lacks "there is no $toolkit/lib64/$name.so to link with."
    done
    for name in lib64/stubs/libcuda.so include/cuda.h include/cuda_runtime.h include/cublas_v2.h; do
        [ -e "$toolkit/$name" ] || lacks "there is no $toolkit/$name."
    done
}

# Compiles and links a program that uses headers and libraries: compilers that don't fit each other,
# and stubs without functions, are told before minutes of compiling.
program() {
    command -v c++ >/dev/null || return
    scratch=$(mktemp -d)
    cat >"$scratch/program.cu" <<'EOF'
#include <cublas_v2.h>
#include <cub/cub.cuh>
#include <cuda.h>
#include <cuda_fp16.h>
__global__ void doubled(half * x) { x[threadIdx.x] = __hadd(x[threadIdx.x], x[threadIdx.x]); }
int main() { cublasHandle_t handle; return cuInit(0) || cublasCreate(&handle); }
EOF
    if said=$("$toolkit/bin/nvcc" -std=c++17 -cudart shared -o "$scratch/program" \
        "$scratch/program.cu" -L"$toolkit/lib64/stubs" -lcuda -lcublas 2>&1); then
        has "compiles and links a program"
    else
        lacks "it does not compile and link a program: $said"
    fi
    rm -r "$scratch"
}

system
programs
if [ "$accel" = cuda ]; then
    compiler
    files
    [ "$failed" = 1 ] || program
fi
exit "$failed"
