#!/bin/sh
# buildah.sh ARGUMENTS...: runs buildah with all of its storage in .cache/image, none in /var or at
# home.
#
# Only the cache mounts of builds (compiled wheels, models) are beside pip's own cache, as the
# wheels of `make run` are: a fresh clone must not compile again. Where the kernel has no overlays,
# each layer is a copy.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd -P)
store=$here/.cache/image
TMPDIR=${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}/gguf-worker/image
export TMPDIR
mkdir -p "$store" "$TMPDIR"

if [ ! -f "$store/driver" ]; then
    mkdir -p "$store/try/a" "$store/try/b" "$store/try/w" "$store/try/on"
    if mount -t overlay overlay "$store/try/on" \
        -o "lowerdir=$store/try/a,upperdir=$store/try/b,workdir=$store/try/w" 2>/dev/null; then
        umount "$store/try/on"
        echo overlay >"$store/driver"
    else
        echo vfs >"$store/driver"
    fi
    rm -rf "$store/try"
fi
exec buildah --root "$store/storage" --runroot "$store/run" \
    --storage-driver "$(cat "$store/driver")" "$@"
