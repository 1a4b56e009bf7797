#!/bin/sh
# emulator.sh: makes sure of qemu's user mode, with which builder/prove_image.py runs an image's
# code on an older processor.
#
# As root on Debian or Ubuntu this installs it; elsewhere that check is left out.
set -eu
here=$(dirname "$0")

command -v qemu-x86_64-static >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    sh "$here/progress.sh" "Looking up Debian's packages" apt-get update &&
        sh "$here/progress.sh" "Installing qemu to try an older processor" \
            apt-get install --yes --no-install-recommends qemu-user-static &&
        exit 0
fi
echo "There is no qemu here: the image is not tried on an older processor." \
    "On Debian: apt-get install qemu-user-static" >&2
