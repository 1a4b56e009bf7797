# A base that stands in for nvidia/cuda:*-devel-* where no registry of images can be reached: NVIDIA's packages from
# the Python index, laid out as in NVIDIA's images. builder/build_image.sh builds it; check_base.sh says whether a base,
# this one or a real one, has what compile.sh needs.
ARG RUNTIME_IMAGE=docker.io/library/python:3.12-slim-bookworm


FROM ${RUNTIME_IMAGE} AS compiler
COPY image/install.sh /build/
RUN --mount=type=secret,id=apt_sources,target=/run/secrets/apt_sources \
    --mount=type=secret,id=ca_certificates,target=/run/secrets/ca_certificates \
    sh /build/install.sh g++ && rm -rf /var/lib/apt/lists/*


FROM compiler AS toolkit
COPY requirements-cuda.txt image/lay_out_cuda.sh /build/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_certificates,target=/run/secrets/ca_certificates \
    python3 -m venv /pip \
    && /pip/bin/pip install --disable-pip-version-check --no-cache-dir --no-compile --no-deps --require-hashes \
        --target /packages --requirement /build/requirements-cuda.txt \
    && sh /build/lay_out_cuda.sh /packages/nvidia/cu13 /usr/local/cuda


FROM compiler
COPY --from=toolkit /usr/local/cuda /usr/local/cuda
ENV PATH=/usr/local/cuda/bin:$PATH
