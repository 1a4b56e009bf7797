#!/bin/sh
# audit.sh PYTHON: asks PyPI's advisory database about every package of the lock files.
#
# It fails for an advisory that docs/security.md does not answer, and for a package that it cannot
# ask about: an audit without its database would find nothing, too.
set -eu
here=$(dirname "$0")
home=.cache/audit
tool=pip-audit==2.10.1

# Answered in docs/security.md, "Known advisories".
answered="CVE-2025-69872"

[ -x "$home/bin/python" ] || "$1" -m venv "$home"
sh "$here/progress.sh" "Installing $tool" \
    "$home/bin/python" -m pip --disable-pip-version-check install "$tool"
for advisory in $answered; do
    set -- "$@" --ignore-vuln "$advisory"
done
shift
for lock in "$here"/requirements*.txt; do
    set -- "$@" --requirement "$lock"
done
exec "$home/bin/python" -m pip_audit --strict --disable-pip --progress-spinner off "$@"
