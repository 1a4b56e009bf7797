"""Whether layers can be on GPUs, for commands that start no engine and shall not load one."""

from __future__ import annotations

from gguf_worker.config import Machine


def can_offload(machine: Machine) -> bool:
    """Return whether llama.cpp was built for the GPUs of this machine, if it has any."""
    if not machine.gpus:
        return False
    from gguf_worker.engine import built_for_gpus

    return built_for_gpus()
