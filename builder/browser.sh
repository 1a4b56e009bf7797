#!/bin/sh
# browser.sh: makes sure of a Chromium for the tests of the page, where nobody has to be asked.
#
# Chromium comes with the system, not with a Python package. As root on Debian or Ubuntu this
# installs it. Elsewhere the tests that need it are skipped with a message, but where CI is set they
# fail.
set -eu
here=$(dirname "$0")

for name in "${CHROMIUM:-chromium}" chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    sh "$here/progress.sh" "Looking up Debian's packages" apt-get update &&
        sh "$here/progress.sh" "Installing Chromium for the tests of the page" \
            apt-get install --yes --no-install-recommends chromium &&
        exit 0
fi
echo "There is no Chromium here: the tests of the page are left out." \
    "On Debian: apt-get install chromium" >&2
