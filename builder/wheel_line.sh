#!/bin/sh
# wheel_line.sh FOLDER [ADDRESS]: prints the line of llama-wheels.txt for the wheel in FOLDER, where
# compile.sh has put it with its key.
#
# A wheel that is not listed gets a line with ADDRESS, the folder on the web where it will lie.
# Without ADDRESS, it fails if the wheel is not listed, or is another one than the list has.
set -eu
folder=$1
address=${2:-}
list=$(dirname "$0")/llama-wheels.txt

fail() {
    echo "error: $1" >&2
    exit 1
}

key=$(cat "$folder/key")
wheel=$(echo "$folder"/*.whl)
hash=$(sha256sum "$wheel")
hash=${hash%% *}
if line=$(grep "^$key " "$list"); then
    case $line in
    "$key $hash "*) ;;
    *) [ -n "$address" ] || fail "the wheel of the key $key that was published is another one" ;;
    esac
    echo "$line"
elif [ -n "$address" ]; then
    echo "$key $hash ${address%/}/$(basename "$wheel")"
else
    fail "no wheel of the key $key is in builder/llama-wheels.txt: what builds this from the \
repository would compile, and RunPod ends a build after 30 minutes. Run the workflow \"Wheel\", \
commit the line that it prints, and release again."
fi
