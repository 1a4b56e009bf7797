#!/bin/sh
# notes.sh VERSION [CHANGELOG]: prints the changelog's section on a version; fails if it is empty.
set -eu
notes=$(awk -v heading="## [$1]" '
    index($0, heading) == 1 { inside = 1; next }
    inside && /^## / { exit }
    inside' "${2:-CHANGELOG.md}")
[ -n "$(printf %s "$notes" | tr -d '[:space:]')" ] || {
    echo "error: CHANGELOG.md has nothing under \"## [$1]\"" >&2
    exit 1
}
printf '%s\n' "$notes"
