"""The part of a machine's memory that a model may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf_worker.models.memory.cost import ModelCost

if TYPE_CHECKING:
    from gguf_worker.config import Machine

_GPU_OVERHEAD = 512 << 20
"""Bytes of CUDA's own context and libraries on each GPU."""
_HOST_OVERHEAD = 192 << 20
"""Bytes of the engine process itself."""
_LEFT_ALONE = 10
"""Divisor of the free memory that is left free: for errors of the sums, and other processes."""


class MemoryBudget:
    """The memory that a model may take: what is free, less overheads and what is left free.

    `with_gpu`: the machine's GPUs are used.
    """

    def __init__(self, machine: Machine, *, with_gpu: bool) -> None:
        gpus = machine.gpus if with_gpu else ()
        self.gpus = len(gpus)
        """Number of GPUs that are used."""
        self.gpu = sum(max(_usable(gpu.free_bytes) - _GPU_OVERHEAD, 0) for gpu in gpus)
        """Bytes of all GPUs together."""
        self.host = max(_usable(machine.memory_available) - _HOST_OVERHEAD, 0)
        """Bytes of the machine's own memory."""

    @staticmethod
    def free_for_gpu(size: int) -> int:
        """Return the bytes that have to be free on a GPU so that a model may take `size`."""
        return _free_for(size + _GPU_OVERHEAD)

    @staticmethod
    def free_for_host(size: int) -> int:
        """Return the bytes of free memory of which a model may take `size`."""
        return _free_for(size + _HOST_OVERHEAD)

    def holds(self, cost: ModelCost, layers: int, cells: int, sequences: int) -> bool:
        """Return whether a model of that cost fits, with `layers` layers on the GPUs."""
        return (
            cost.on_gpu(layers, cells, sequences) <= self.gpu
            and cost.on_host(layers, cells, sequences) <= self.host
        )


def _usable(free: int) -> int:
    return free - free // _LEFT_ALONE


def _free_for(usable: int) -> int:
    return usable * _LEFT_ALONE // (_LEFT_ALONE - 1)


def shown_size(count: int) -> str:
    """Return a number of bytes as text, in MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
