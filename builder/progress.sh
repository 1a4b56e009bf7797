#!/bin/sh
# progress.sh MESSAGE COMMAND...: runs a long and chatty command, and prints only its progress.
#
# The output goes to a log. A line every 15 seconds gives the time and, where a build counts its
# steps, their share. When the command fails, the end of the log is shown and the log is kept.
set -u
message=$1
shift
log=$(mktemp "${TMPDIR:-/tmp}/gguf-worker.XXXXXX") || exit 1
begin=$(date +%s)

elapsed() {
    echo $(($(date +%s) - begin))
}

# Prints the share of a build that is done. Ninja writes "[12/355] Building ...". Builds of images
# write "[2/5] STEP 3/4", which says nothing of the time.
built() {
    sed -n '/\] STEP /!s/^.*\[\([0-9][0-9]*\)\/\([1-9][0-9]*\)\] .*$/\1 \2/p' "$log" | tail -n 1 |
        while read -r step steps; do echo ", $((100 * step / steps)) % built"; done
}

tick() {
    while sleep "${PROGRESS_SECONDS:-15}" >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        echo "    $(elapsed) s$(built)"
    done
}

echo "==> $message"
tick &
ticker=$!
trap 'kill "$ticker" 2>/dev/null' EXIT
trap 'rm -f "$log"; exit 130' INT TERM
"$@" >"$log" 2>&1
status=$?
if [ "$status" -eq 0 ]; then
    echo "    done in $(elapsed) s"
    rm -f "$log"
else
    tail -n 40 "$log" >&2
    echo "error: $message failed after $(elapsed) s; all of its output is in $log" >&2
fi
exit "$status"
