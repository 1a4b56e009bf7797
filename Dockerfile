# syntax=docker/dockerfile:1
#
# The worker's image, for NVIDIA GPUs or, with --build-arg ACCEL=cpu, without:
#
#     docker build --tag gguf-worker:cuda .
#     docker build --build-arg ACCEL=cpu --tag gguf-worker:cpu .
#
# `make image` builds the one for a CPU, also without docker, and tries it. Arguments:
#
#     BASE_IMAGE          builds llama.cpp: python3 with venv; with ACCEL=cuda also the CUDA toolkit, and a glibc
#                         that is not newer than RUNTIME_IMAGE's. A compiler is installed where there is none.
#     RUNTIME_IMAGE       runs the worker: Debian's userland with Python 3.11 or later.
#     CUDA_ARCHITECTURES  as CMake wants them; the fewer, the shorter the build.
#     MODEL               a model to bake in (org/repo:QUANT ...), with MODEL_REVISION and MODEL_SHA256 as in the
#                         settings; its token only as --secret id=HF_TOKEN.
#
# Secrets that a build may need behind a mirror: pip_conf (/etc/pip.conf), ca_certificates (a bundle of authorities),
# apt_sources (a list of Debian's mirrors). None of them is left in a layer.

# What RunPod builds from a repository gets no arguments, and has a GPU.
ARG ACCEL=cuda
ARG BASE_IMAGE=
ARG RUNTIME_IMAGE=docker.io/library/python:3.12-slim-bookworm


FROM ${BASE_IMAGE:-docker.io/library/python:3.12-slim-bookworm} AS base-cpu


FROM ${BASE_IMAGE:-docker.io/nvidia/cuda:12.8.1-devel-ubuntu22.04} AS base-cuda


# llama.cpp, in a wheel that no Python version matters to. Compiled wheels are kept beside the layers too: a builder
# forgets layers sooner than it forgets its cache.
# hadolint ignore=DL3006
FROM base-${ACCEL} AS compiled
ARG ACCEL
# Real code for 8.0, 9.0, 10.0 and 12.0. What is built for 8.0 is real code for 8.6 and 8.9 too, in the same
# instructions; the code in between (80 without -real) is there for GPUs that are not yet.
ARG CUDA_ARCHITECTURES=80;90-real;100-real;120a-real
COPY builder/requirements-llama.txt builder/llama-wheels.txt \
     builder/image/check_base.sh builder/image/compile.sh builder/image/install.sh \
     builder/image/published_wheel.py builder/image/times.sh /build/
RUN --mount=type=cache,id=gguf-worker-llama,target=/compiled \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_certificates,target=/run/secrets/ca_certificates \
    --mount=type=secret,id=apt_sources,target=/run/secrets/apt_sources \
    sh /build/check_base.sh "${ACCEL}" "${CUDA_ARCHITECTURES}" \
    && sh /build/compile.sh "${ACCEL}" /wheels /layer/cuda \
    && sh /build/times.sh /layer


# What was compiled, without the compilers: a cache of layers that is to hold it need not hold gigabytes of base.
FROM scratch AS wheel
COPY --from=compiled /wheels /wheels
COPY --from=compiled /layer /layer


# What becomes a layer is a folder in /layer, with times and bytecode that depend on nothing but its files: the layer is
# then the same on each builder, and is pulled again only when it differs. It is copied by way of /layer, because a
# folder that a copy makes has the time of the copy. The bytecode is valid whatever its source's time of change is.
FROM ${RUNTIME_IMAGE} AS pip
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /pip
COPY builder/image/times.sh /build/


# llama.cpp's libraries and its Python package in /llama.
FROM pip AS llama
COPY --from=wheel /wheels /wheels
COPY builder/image/slim.sh /build/
RUN /pip/bin/pip install --no-deps --no-index --no-compile --target /layer/llama /wheels/*.whl \
    && sh /build/slim.sh /layer/llama \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /layer/llama \
    && sh /build/times.sh /layer


# The locked packages in /venv, which has no pip, and which finds llama.cpp's by a line in a file.
FROM pip AS packages
RUN python3 -m venv --without-pip /venv
COPY builder/requirements.txt /build/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_certificates,target=/run/secrets/ca_certificates \
    /pip/bin/pip --python /venv/bin/python install --no-deps --no-compile --require-hashes \
        --requirement /build/requirements.txt \
    && for site in /venv/lib/python*/site-packages; do echo /llama >"$site/llama.pth"; done \
    && find /venv -name '*.a' -delete \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /venv/lib \
    && sh /build/times.sh /venv \
    && mkdir /layer && cp -al /venv /layer/


# The worker's own package in /worker, so that a change of it costs a layer of a megabyte.
FROM packages AS worker
COPY --from=llama /layer /
COPY pyproject.toml README.md LICENSE /build/
COPY src /build/src
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_certificates,target=/run/secrets/ca_certificates \
    /pip/bin/pip --python /venv/bin/python install --no-deps --no-compile --prefix /worker /build \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /worker/lib \
    && sh /build/times.sh /worker \
    && cp -a /worker/. /venv/ \
    && /pip/bin/pip --python /venv/bin/python check


# A model that is baked in, fetched and verified by the store itself. It is kept in the builder's cache: this stage
# runs again when the worker changes, and must not download again then.
FROM worker AS model
ARG MODEL=
ARG MODEL_REVISION=
ARG MODEL_SHA256=
ARG HF_ENDPOINT=
COPY builder/image/bake.sh /build/
RUN --mount=type=cache,id=gguf-worker-models,target=/fetched \
    --mount=type=secret,id=HF_TOKEN,target=/run/secrets/HF_TOKEN \
    --mount=type=secret,id=ca_certificates,target=/run/secrets/ca_certificates \
    mkdir /baked && sh /build/bake.sh /fetched /baked/models && sh /build/times.sh /baked


# The largest layers that change least are the lowest: where a layer is new, docker pulls all above it again.
FROM ${RUNTIME_IMAGE}
COPY --from=wheel /layer /
COPY --from=model /baked /
COPY --from=llama /layer /
COPY --from=packages /layer /
# llama.cpp's threads, in the version of the day; where CUDA is; the standard library's bytecode, which Python's own
# images lack. The user is for whoever runs the image with `--user worker`.
# hadolint ignore=DL3008
RUN dpkg-query --show libgomp1 >/dev/null 2>&1 \
    || { apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; } \
    && echo /cuda >/etc/ld.so.conf.d/cuda.conf && ldconfig && rm -rf /var/cache/ldconfig \
    && python3 -m compileall -q -x '/(site|dist)-packages/|/(test|tests|idlelib|lib2to3|turtledemo|tkinter|ensurepip)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin worker \
    && rm -f /var/log/lastlog /var/log/faillog
WORKDIR /app
COPY handler.py test_input.json builder/image/health.py ./
COPY --from=worker /worker /venv
ARG MODEL=
# RunPod's SDK logs every streamed item at its default level, DEBUG. Which model is baked in says a note in /models:
# in a variable it would be mixed up with the model that somebody sets.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RUNPOD_LOG_LEVEL=INFO \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    BAKED_MODELS=${MODEL:+/models}
EXPOSE 8000
# A model may take long to fetch; the first success ends the patience.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30m CMD ["python", "-I", "-S", "/app/health.py"]
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="GGUF worker" \
      org.opencontainers.image.description="Any GGUF model on RunPod Serverless, by llama.cpp." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# In exec form: Python is the first process of the container and gets its signals.
CMD ["python", "-u", "handler.py"]
