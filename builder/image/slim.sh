#!/bin/sh
# slim.sh VENV: removes from VENV what only a compiler needs, and puts links in place of copies of
# llama-cpp-python's libraries: a wheel cannot hold links, so it has each under three names.
set -eu
site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

for folder in include lib lib64 bin; do
    rm -rf "${site:?}/$folder"
done
find "$site" -name '*.a' -delete
for library in "$site"/llama_cpp/lib/*.so.*.*; do
    [ -f "$library" ] || continue
    name=$(basename "$library")
    plain=${name%%.so.*}.so
    version=${name#"$plain".}
    ln -sf "$name" "$site/llama_cpp/lib/$plain"
    ln -sf "$name" "$site/llama_cpp/lib/$plain.${version%%.*}"
done
