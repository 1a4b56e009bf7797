#!/bin/sh
# times.sh FOLDERS...: gives everything in the FOLDERS one and the same time of change, so that the
# layer that is made of them is the same whoever builds it, and whenever.
set -eu
exec find "$@" -exec touch --no-dereference --date=@315532800 {} +
