#!/bin/sh
# bake.sh CACHE MODELS: puts the model that the build's arguments name into the folder MODELS,
# fetched by way of CACHE and verified by the worker's own store. Without a model, MODELS is empty.
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
# A worker marks there which model it uses, also as another user than root.
chmod -R a+rwX "$models"
