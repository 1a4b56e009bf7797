"""Run a script or a module of llama-cpp-python's with llama.cpp's extra buffer types off.

    python plain_buffers.py SCRIPT ...        python plain_buffers.py -m MODULE ...

On processors with AMX the kernels behind those buffers crash, and the bindings' servers have no
option for that.
"""

from __future__ import annotations

import runpy
import sys

import llama_cpp
from llama_cpp import llama_cpp as bindings

_defaults = bindings.llama_model_default_params


def _plain() -> bindings.llama_model_params:
    params = _defaults()
    params.use_extra_bufts = False
    return params


if __name__ == "__main__":
    bindings.llama_model_default_params = llama_cpp.llama_model_default_params = _plain
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
