#!/bin/sh
# slim.sh FOLDER: removes from FOLDER, where llama-cpp-python is installed, the files that only a
# compiler needs, and puts links in place of copies: a wheel cannot hold links, so it has each
# library under three names.
set -eu
site=$1

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
