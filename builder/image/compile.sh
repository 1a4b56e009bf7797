#!/bin/sh
# compile.sh cpu|cuda WHEELS CUDA: compiles llama-cpp-python from its pinned sources into the folder
# WHEELS, inside of the image's build, and copies the CUDA libraries it needs into the folder CUDA.
#
# Wheels are kept in /compiled, each under a key of all that it is made from: flags, system, lock,
# and the compilers of the base. One that was published under the same key is taken instead of
# compiling (published_wheel.py). WHEELS gets the key as a file of that name.
set -eu
accel=$1
wheels=$2
cuda=$3
lock=/build/requirements-llama.txt

# Exits with 0 if a published wheel is in /tmp/wheels, with 3 if there is none to be had.
take_published() (
    if [ -f /run/secrets/ca_certificates ]; then
        export SSL_CERT_FILE=/run/secrets/ca_certificates
    fi
    python3 /build/published_wheel.py /build/llama-wheels.txt "$key" /tmp/wheels
)

# No code for the building machine's own processor: hosts differ. AVX2 is the floor. The worker
# reads no pictures. What computes is a module that the engine loads: llama.cpp then starts where
# the driver that one of them needs is missing.
flags="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
flags="$flags -DLLAVA_BUILD=OFF -DGGML_BACKEND_DL=ON"
# What the base brings along for compiling. What is installed below belongs to its release.
tools=
minutes="some 4 minutes on two cores"
! command -v c++ >/dev/null || tools=" $(c++ --version)"
mkdir -p "$cuda"
if [ "$accel" = cuda ]; then
    nvcc=/usr/local/cuda/bin/nvcc
    tools="$tools $($nvcc --version)"
    toolkit=/usr/local/cuda/lib64
    # With their own times, so that they are the same layer whenever they are copied.
    cp --dereference --preserve=timestamps --target-directory="$cuda" \
        $toolkit/libcudart.so.1[0-9] $toolkit/libcublas.so.1[0-9] $toolkit/libcublasLt.so.1[0-9]
    # No matrix kernel is forced: llama.cpp chooses the fastest by GPU and shape.
    flags="$flags -DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF"
    flags="$flags -DCMAKE_CUDA_ARCHITECTURES=$CUDA_ARCHITECTURES"
    minutes="20 minutes on two cores for one architecture, 9 for each other one of $CUDA_ARCHITECTURES"
fi

# shellcheck source=/dev/null
. /etc/os-release
system="$ID ${VERSION_ID:-${VERSION_CODENAME:-}} $(uname -m)"
key=$(printf '%s\n' "$accel $flags $system$tools" | cat - "$lock" | cksum | tr ' ' -)
kept=/compiled/$key
if [ -d "$kept" ]; then
    echo "llama-cpp-python for $accel is compiled already"
else
    missing=
    command -v c++ >/dev/null || missing=g++
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    if [ -n "$missing" ]; then
        # Names of packages, to be split.
        # shellcheck disable=SC2086
        sh /build/install.sh $missing
    fi
    mkdir /tmp/wheels
    published=0
    take_published || published=$?
    case $published in
    0) ;;
    3)
        echo "compiling llama-cpp-python for $accel: $minutes"
        python3 -m venv /tmp/pip
        CMAKE_ARGS=$flags /tmp/pip/bin/pip wheel --verbose --no-cache-dir --no-deps \
            --require-hashes --requirement "$lock" --wheel-dir /tmp/wheels
        ;;
    *) exit "$published" ;;
    esac
    # The folder appears whole or not at all, also where two builds make it at once.
    rm -rf "$kept.$$"
    cp -r /tmp/wheels "$kept.$$"
    mv -T "$kept.$$" "$kept" || rm -rf "$kept.$$"
fi
cp -r "$kept" "$wheels"
echo "$key" >"$wheels/key"
