#!/bin/sh
# bake.sh CACHE MODELS: puts the model that the build's arguments name into the folder MODELS,
# fetched by way of CACHE and verified by the worker's own store. Without a model, MODELS is empty.
#
# The same model makes the same files, with the same times: its layer is pulled once.
set -eu
cache=$1
models=$2

if [ -z "${MODEL:-}" ]; then
    mkdir "$models"
    exit 0
fi
if [ -f /run/secrets/HF_TOKEN ]; then
    HF_TOKEN=$(cat /run/secrets/HF_TOKEN)
    export HF_TOKEN
fi
if [ -f /run/secrets/ca_certificates ]; then
    export SSL_CERT_FILE=/run/secrets/ca_certificates
fi
# A folder for each model, so that no model of another image comes along.
VOLUME_PATH=$cache/$(printf %s "$MODEL@${MODEL_REVISION:-}" | cksum | tr ' ' -)
export VOLUME_PATH
mkdir -p "$VOLUME_PATH"
/venv/bin/python -m gguf_worker models pull "$MODEL"
/venv/bin/python -m gguf_worker models verify --all
cp -a "$VOLUME_PATH" "$models"
# Of the folder only what is published: no marks of who used it and fetched it here.
find "$models" -type f \( -name '*.use.*' -o -name '*.lock.*' -o -name '*.part*' \
    -o -name '*.bad' -o -name '*.gone' \) ! -name '*.gguf' ! -name '*.gguf.json' -delete
# The worker takes the revision and the checksum for this model's alone.
/venv/bin/python -c 'if True:
    import json, os
    given = {name: os.environ.get(name) for name in ("MODEL", "MODEL_REVISION", "MODEL_SHA256")}
    print(json.dumps(given))' >"$models/baked.json"
# The time that times.sh gives all files, as the store notes it: it reads no byte of such a file.
find "$models" -name '*.gguf.json' -exec \
    sed -i 's/"changed_ns": [0-9]*/"changed_ns": 315532800000000000/' {} +
# Any user may read it; nobody has to write there.
chmod -R u=rwX,go=rX "$models"
