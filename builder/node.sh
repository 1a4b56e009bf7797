#!/bin/sh
# node.sh FOLDER: installs the packages of FOLDER/package.json, for the tests with the npm client.
#
# Node comes with the system. As root on Debian or Ubuntu this installs it. Elsewhere the tests that
# need it are skipped with a message, but where CI is set they fail.
set -eu
here=$(dirname "$0")
folder=$1

if ! command -v npm >/dev/null 2>&1 && [ "$(id -u)" = 0 ] &&
    command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    sh "$here/progress.sh" "Looking up Debian's packages" apt-get update &&
        sh "$here/progress.sh" "Installing Node for the tests of its client" \
            apt-get install --yes --no-install-recommends nodejs npm || true
fi
command -v npm >/dev/null 2>&1 || {
    echo "There is no npm here: the tests with Node's client are left out." \
        "On Debian: apt-get install nodejs npm" >&2
    exit 0
}
# npm writes this file last.
if [ "$folder/node_modules/.package-lock.json" -nt "$folder/package-lock.json" ]; then
    exit 0
fi
sh "$here/progress.sh" "Installing Node's packages for the tests" \
    npm ci --ignore-scripts --no-audit --no-fund --prefix "$folder" ||
    echo "npm cannot install them: the tests with Node's client are left out." >&2
