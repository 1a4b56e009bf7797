#!/bin/sh
# slim.sh VENV: takes out of VENV what llama-cpp-python's wheel has for those who compile against it, and what it has
# three times: a wheel cannot hold links, so it has each library under each of its names.
set -eu
site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

for folder in include lib lib64 bin; do
    rm -rf "${site:?}/$folder"
done
for library in "$site"/llama_cpp/lib/*.so.*.*; do
    [ -f "$library" ] || continue
    name=$(basename "$library")
    plain=${name%%.so.*}.so
    version=${name#"$plain".}
    ln -sf "$name" "$site/llama_cpp/lib/$plain"
    ln -sf "$name" "$site/llama_cpp/lib/$plain.${version%%.*}"
done
