#!/bin/sh
# bake.sh CACHE MODELS: has the model that the build's arguments name in the folder MODELS, fetched by way of CACHE, and
# verified by the worker's own store; an empty folder where none is named.
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
# A folder for each model: what was baked into another image does not come along.
VOLUME_PATH=$cache/$(printf %s "$MODEL@${MODEL_REVISION:-}" | cksum | tr ' ' -)
export VOLUME_PATH
mkdir -p "$VOLUME_PATH"
/venv/bin/python -m gguf_worker models pull "$MODEL"
/venv/bin/python -m gguf_worker models verify --all
cp -a "$VOLUME_PATH" "$models"
# Whoever runs the image as another user than root marks there what is in use.
chmod -R a+rwX "$models"
