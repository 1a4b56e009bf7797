# The worker's image, for a CPU or, with --build-arg ACCEL=cuda, for NVIDIA GPUs:
#
#     docker build --build-arg ACCEL=cuda --tag gguf-worker:cuda .
#
# llama.cpp is compiled in a stage of its own into a wheel that no Python version matters to; the stage that runs has
# neither a compiler nor the CUDA toolkit, only the three CUDA libraries that llama.cpp is linked with.
# Code for the building machine's own processor (GGML_NATIVE) has no place in an image: hosts differ.

ARG ACCEL=cpu
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
# Its glibc must not be newer than PYTHON_IMAGE's.
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-devel-ubuntu22.04


FROM ${PYTHON_IMAGE} AS compiler-cpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /cuda
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"


FROM ${CUDA_IMAGE} AS compiler-cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /cuda \
    && cp --dereference --target-directory=/cuda \
        /usr/local/cuda/lib64/libcudart.so.12 \
        /usr/local/cuda/lib64/libcublas.so.12 \
        /usr/local/cuda/lib64/libcublasLt.so.12
# The driver's libcuda.so.1 comes from the host, so nothing that links with it here can find it.
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON \
-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined \
-DCMAKE_CUDA_ARCHITECTURES=80-real;86-real;89-real;90-real;100-real;120"


FROM compiler-${ACCEL} AS compiled
COPY builder/requirements-llama.txt /build/
RUN python3 -m pip wheel --no-cache-dir --no-deps --require-hashes \
    --requirement /build/requirements-llama.txt --wheel-dir /wheels


FROM ${PYTHON_IMAGE} AS installed
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
COPY builder/requirements.txt /build/builder/
RUN /venv/bin/pip install --no-deps --require-hashes --requirement /build/builder/requirements.txt
COPY --from=compiled /wheels /wheels
RUN /venv/bin/pip install --no-deps /wheels/*.whl
COPY pyproject.toml README.md LICENSE /build/
COPY src /build/src
RUN /venv/bin/pip install --no-deps /build && /venv/bin/pip check


FROM ${PYTHON_IMAGE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=compiled /cuda /usr/local/lib
RUN ldconfig
COPY --from=installed /venv /venv
WORKDIR /app
COPY handler.py test_input.json ./
# RunPod's SDK logs every streamed item at its default level, DEBUG.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RUNPOD_LOG_LEVEL=INFO \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8000
# In exec form: Python is the first process of the container and gets its signals.
CMD ["python", "-u", "handler.py"]
