#!/bin/sh
# install.sh PACKAGES...: installs packages of the system that an image is built on, from the
# mirrors of the building machine where those are for that system.
set -eu
sources=/run/secrets/apt_sources

# shellcheck source=/dev/null
. /etc/os-release
mirrors=
# Another system, or another release, cannot use the packages of the one that they are for.
if [ "$ID" = debian ] && [ -n "${VERSION_CODENAME:-}" ] &&
    grep -qs " $VERSION_CODENAME " "$sources"; then
    mirrors="-o Dir::Etc::SourceList=$sources -o Dir::Etc::SourceParts=-"
fi
# Two options with an argument each, or none.
# shellcheck disable=SC2086
apt-get $mirrors update
# shellcheck disable=SC2086
apt-get $mirrors install --yes --no-install-recommends "$@"
