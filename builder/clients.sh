#!/bin/sh
# clients.sh PYTHON CACHE: sets up the packages that `make clients` drives, at their pinned versions.
#
# Those of npm are installed beside their package.json. Each list in tests/clients/python gets a
# virtual environment of its own in CACHE, since packages of different lists may not go together. A
# list that has an .in beside it is made from that, by
#     uv pip compile --universal --python-version 3.11 --no-header --no-annotate NAME.in -o NAME.txt
set -eu
here=$(dirname "$0")
python=$1
cache=$2

# No `npm ci`: some registries lack an optional package of another system, and so does the lock then.
for folder in tests/clients/node tests/clients/agents; do
    [ "$folder/node_modules/.package-lock.json" -nt "$folder/package-lock.json" ] && continue
    sh "$here/progress.sh" "Installing the clients of $folder" \
        npm install --no-save --ignore-scripts --no-audit --no-fund --prefix "$folder"
done
# These two put their program, which is a package of its own, in its place when they are installed.
npm rebuild --prefix tests/clients/agents @anthropic-ai/claude-code opencode-ai >/dev/null
uv=$cache/uv/bin/uv
if [ ! -x "$uv" ]; then
    "$python" -m venv "$cache/uv"
    "$cache/uv/bin/python" -m pip --disable-pip-version-check --quiet install uv==0.13.8
fi
for list in tests/clients/python/*.txt; do
    name=$(basename "$list" .txt)
    venv=$cache/$name
    [ "$venv/.installed" -nt "$list" ] && continue
    "$uv" venv --quiet --clear --python "$python" "$venv"
    sh "$here/progress.sh" "Installing the clients of $list" \
        "$uv" pip install --python "$venv/bin/python" --requirement "$list"
    touch "$venv/.installed"
done
