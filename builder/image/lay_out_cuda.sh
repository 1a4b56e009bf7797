#!/bin/sh
# lay_out_cuda.sh PACKAGES TOOLKIT: makes the folder that NVIDIA's Python packages share into a
# toolkit as NVIDIA's other packages install it.
set -eu
packages=$1
toolkit=$2

mv "$packages" "$toolkit"
ln -s lib "$toolkit/lib64"
mkdir -p "$toolkit/targets/x86_64-linux" "$toolkit/lib/stubs"
ln -s ../../include ../../lib "$toolkit/targets/x86_64-linux/"
# A Python package holds no links, and a linker looks for a name without a version.
for library in "$toolkit"/lib/*.so.[0-9]*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
done
# The driver's library is the host's. To link against it, its name and those of its functions do.
printf '#include <cuda.h>\n' | c++ -E -x c -I "$toolkit/include" - |
    sed -n 's/^ *CUresult *\(cu[A-Za-z0-9_]*\)(.*/void \1(void) {}/p' | sort -u |
    c++ -shared -x c - -Wl,-soname,libcuda.so.1 -o "$toolkit/lib/stubs/libcuda.so"
