"""The machine as a container may use it: control groups of both versions, and a driver that may be
missing."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gguf_worker.config import Gpu, Machine, mapped_bytes, probe
from gguf_worker.config.machine import nvidia_gpus

GIB = 2**30
HOST = (64 * GIB, 48 * GIB)


class Container:
    """Control files below `root`, and the membership file that names them."""

    def __init__(self, root: Path) -> None:
        self.root = root / "cgroup"
        self.root.mkdir()
        self.membership = root / "membership"
        self.membership.write_text("0::/\n")

    def put(self, name: str, text: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def probe(self, cores: int = 16) -> Machine:
        return probe(
            {},
            cgroups=self.root,
            membership=self.membership,
            host_cores=lambda: cores,
            host_memory=lambda: HOST,
            gpus=lambda environ: (),
        )


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_without_limits_the_host_is_the_machine(container: Container) -> None:
    assert container.probe() == Machine(16, *HOST)


def test_without_any_control_group_the_host_is_the_machine(tmp_path: Path) -> None:
    machine = probe(
        {},
        cgroups=tmp_path / "none",
        membership=tmp_path / "none",
        host_cores=lambda: 3,
        host_memory=lambda: HOST,
        gpus=lambda environ: (),
    )
    assert machine == Machine(3, *HOST)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 16), ("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 1)],
)
def test_a_cpu_quota_is_rounded_up(container: Container, quota: str, cores: int) -> None:
    container.put("cpu.max", quota)
    assert container.probe().cores == cores


def test_a_quota_above_the_schedulable_cores_changes_nothing(container: Container) -> None:
    container.put("cpu.max", "6400000 100000")
    assert container.probe(cores=4).cores == 4


def test_the_tightest_group_on_the_way_up_counts(container: Container) -> None:
    container.membership.write_text("0::/pod/worker\n")
    container.put("pod/cpu.max", "300000 100000")
    container.put("pod/worker/cpu.max", "800000 100000")
    container.put("pod/memory.max", 8 * GIB)
    container.put("pod/memory.current", 6 * GIB)
    container.put("pod/worker/memory.max", 7 * GIB)
    container.put("pod/worker/memory.current", 1 * GIB)
    assert container.probe() == Machine(3, 7 * GIB, 2 * GIB)


def test_the_hosts_path_is_ignored_where_the_container_does_not_see_it(
    container: Container,
) -> None:
    container.membership.write_text("0::/kubepods/pod1/abc\n")
    container.put("cpu.max", "400000 100000")
    assert container.probe().cores == 4


def test_a_path_outside_the_mount_means_the_mount_itself(container: Container) -> None:
    container.membership.write_text("0::/../outside\n")
    container.put("../outside/cpu.max", "100000 100000")
    container.put("cpu.max", "400000 100000")
    assert container.probe().cores == 4


def test_cached_files_count_as_free_memory(container: Container) -> None:
    container.put("memory.max", 16 * GIB)
    container.put("memory.current", 12 * GIB)
    container.put("memory.stat", f"anon 1\ninactive_file {6 * GIB}\nactive_file {2 * GIB}")
    assert container.probe().memory_available == 12 * GIB


def test_a_group_over_its_limit_has_nothing_free(container: Container) -> None:
    container.put("memory.max", 1 * GIB)
    container.put("memory.current", 2 * GIB)
    assert container.probe().memory_available == 0


def test_a_limit_above_the_hosts_memory_changes_nothing(container: Container) -> None:
    container.put("memory.max", 999 * GIB)
    assert container.probe() == Machine(16, *HOST)


def test_version_1_limits_are_read(container: Container) -> None:
    container.membership.write_text("4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n")
    container.put("cpu,cpuacct/box/cpu.cfs_quota_us", 150_000)
    container.put("cpu,cpuacct/box/cpu.cfs_period_us", 100_000)
    container.put("memory/box/memory.limit_in_bytes", 4 * GIB)
    container.put("memory/box/memory.usage_in_bytes", 3 * GIB)
    container.put("memory/box/memory.stat", f"total_inactive_file {2 * GIB}")
    assert container.probe() == Machine(2, 4 * GIB, 3 * GIB)


def test_version_1_says_no_limit_with_minus_one_and_a_huge_number(container: Container) -> None:
    container.membership.write_text("4:memory:/\n2:cpu:/\n")
    container.put("cpu/cpu.cfs_quota_us", -1)
    container.put("cpu/cpu.cfs_period_us", 100_000)
    container.put("memory/memory.limit_in_bytes", 9_223_372_036_854_771_712)
    container.put("memory/memory.usage_in_bytes", 3 * GIB)
    assert container.probe() == Machine(16, *HOST)


def test_where_both_versions_are_mounted_the_second_is_found(container: Container) -> None:
    container.put("unified/cpu.max", "500000 100000")
    assert container.probe().cores == 5


def test_the_real_machine_can_be_probed() -> None:
    machine = probe({})
    assert machine.cores >= 1
    assert 0 < machine.memory_available <= machine.memory_bytes


def test_a_machine_explains_itself_in_one_line() -> None:
    gpu = Gpu(0, "NVIDIA L4", 24 * GIB, 20 * GIB, "8.9")
    assert (
        Machine(1, 8 * GIB, 4 * GIB).explain() == "1 core, 4.0 GiB of 8.0 GiB memory free, no GPU"
    )
    assert "GPU 0 NVIDIA L4 (20.0 GiB of 24.0 GiB free)" in Machine(8, *HOST, (gpu,)).explain()


class DriverError(Exception):
    pass


class WrongArgument(DriverError):
    pass


class NoLibrary(DriverError):
    pass


@dataclass
class Driver:
    """A stand-in for pynvml with two GPUs; `fails` names calls that raise.

    `broken`: the GPU for which alone they do; None: for each.
    """

    fails: frozenset[str] = frozenset()
    broken: int | None = None
    open: int = 0
    failure: type[DriverError] = DriverError
    NVMLError: type[Exception] = DriverError
    NVMLError_InvalidArgument: type[Exception] = WrongArgument
    NVMLError_NotFound: type[Exception] = WrongArgument
    NVMLError_LibraryNotFound: type[Exception] = NoLibrary
    NVMLError_DriverNotLoaded: type[Exception] = NoLibrary
    NVML_DEVICE_MIG_ENABLE: int = 1
    uuids: tuple[str, ...] = ("GPU-aa", "GPU-bb")
    instances: dict[int, dict[int, str]] = field(default_factory=dict)
    """The unique ids of the instances, by number, of each GPU that is divided."""

    def _call(self, name: str, gpu: int | None = None) -> None:
        if name in self.fails and (gpu is None or self.broken in (None, gpu)):
            raise self.failure(name)

    def nvmlInit(self) -> None:
        self._call("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._call("count")
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= len(self.uuids):
            raise WrongArgument("index")
        self._call("handle", index)
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int | tuple[int, str]:
        for gpu, instances in self.instances.items():
            if uuid in instances.values():
                return (gpu, uuid)
        if uuid not in self.uuids:
            raise WrongArgument("uuid")
        return self.uuids.index(uuid)

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        if not self.instances:
            raise DriverError("Not Supported")
        return (int(handle in self.instances), 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, number: int) -> tuple[int, str]:
        if number not in self.instances[handle]:
            raise WrongArgument("Not Found")
        return (handle, self.instances[handle][number])

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, instance: tuple[int, str]) -> int:
        return instance[0]

    def nvmlDeviceGetUUID(self, handle: int | tuple[int, str]) -> str:
        self._call("uuid")
        return handle[1] if isinstance(handle, tuple) else self.uuids[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int | tuple[int, str]) -> Any:
        if isinstance(handle, tuple):
            return SimpleNamespace(total=10 * GIB, free=9 * GIB)
        if handle in self.instances:
            raise DriverError("Insufficient Permissions")
        self._call("memory", handle)
        return SimpleNamespace(total=(handle + 1) * 10 * GIB, free=(handle + 1) * 5 * GIB)

    def nvmlDeviceGetName(self, handle: int | tuple[int, str]) -> str:
        if isinstance(handle, tuple):
            return f"GPU {self.uuids[handle[0]]} MIG 1g.10gb"
        return f"GPU {self.uuids[handle]}"

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        assert isinstance(handle, int), "an instance does not know it"
        self._call("capability", handle)
        return (9, 0)


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver


FIRST = Gpu(0, "GPU GPU-aa", 10 * GIB, 5 * GIB, "9.0", "GPU-aa")
SECOND = Gpu(1, "GPU GPU-bb", 20 * GIB, 10 * GIB, "9.0", "GPU-bb")


def test_every_gpu_of_the_driver_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, Driver())
    assert nvidia_gpus({}) == (FIRST, SECOND)
    assert driver.open == 0


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("0", ["GPU GPU-aa"]),
        ("1,0", ["GPU GPU-bb", "GPU GPU-aa"]),
        ("GPU-bb", ["GPU GPU-bb"]),
        ("1,7,0", ["GPU GPU-bb"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_only_gpus_that_cuda_may_see_are_listed_in_its_order(
    monkeypatch: pytest.MonkeyPatch, chosen: str, names: list[str]
) -> None:
    install(monkeypatch, Driver())
    found = nvidia_gpus({"CUDA_VISIBLE_DEVICES": chosen})
    assert [gpu.name for gpu in found] == names
    assert [gpu.index for gpu in found] == list(range(len(names)))


@pytest.mark.parametrize("call", ["init", "count"])
def test_a_driver_that_fails_means_no_gpu_and_is_named(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    driver = install(monkeypatch, Driver(fails=frozenset({call})))
    machine = probe({})
    assert (machine.gpus, machine.unreadable) == ((), (f"the NVIDIA driver ({call})",))
    assert driver.open == 0


def test_a_machine_without_a_driver_has_nothing_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(fails=frozenset({"init"}), failure=NoLibrary))
    assert (probe({}).gpus, probe({}).unreadable) == ((), ())


@pytest.mark.parametrize("chosen", [None, "0,1", "GPU-aa,GPU-bb"])
@pytest.mark.parametrize(("broken", "left"), [(0, SECOND), (1, FIRST)])
def test_a_gpu_that_cannot_be_read_is_left_out_by_name_and_the_others_are_used(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, broken: int, left: Gpu
) -> None:
    driver = install(monkeypatch, Driver(fails=frozenset({"memory"}), broken=broken))
    machine = probe({} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen})
    assert machine.gpus == (left,)
    name = str(broken) if chosen != "GPU-aa,GPU-bb" else driver.uuids[broken]
    assert machine.unreadable == (f"GPU {name} GPU {driver.uuids[broken]} (memory)",)
    assert machine.unreadable[0] in machine.explain()
    assert driver.open == 0


def test_a_gpu_that_the_driver_does_not_hand_out_is_left_out_by_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, Driver(fails=frozenset({"handle"}), broken=0))
    for chosen in ({}, {"CUDA_VISIBLE_DEVICES": "0,1"}):
        machine = probe(chosen)
        assert (machine.gpus, machine.unreadable) == ((SECOND,), ("GPU 0 (handle)",))


def test_a_driver_library_that_is_missing_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia_gpus({}) == ()


def test_a_gpu_without_a_known_capability_is_listed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, Driver(fails=frozenset({"capability"})))
    assert [gpu.compute_capability for gpu in nvidia_gpus({})] == [None, None]


def test_a_gpu_without_a_unique_id_is_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(fails=frozenset({"uuid"})))
    assert [gpu.uuid for gpu in nvidia_gpus({})] == [None, None]


def test_a_driver_that_shows_no_gpu_is_at_fault_unless_none_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, Driver(uuids=()))
    assert probe({}).unreadable == ("the NVIDIA driver (it shows no GPU)",)
    assert probe({"CUDA_VISIBLE_DEVICES": ""}).unreadable == ()


# GPUs that are divided into instances (MIG).


SLICE = Gpu(0, "GPU GPU-aa MIG 1g.10gb", 10 * GIB, 9 * GIB, "9.0", "MIG-x")


def divided(*, gpu: int = 0, numbers: tuple[int, ...] = (2,), gpus: int = 1) -> Driver:
    """Return a driver with a GPU of which instances have these numbers: "MIG-x" and so on."""
    names = dict(zip(numbers, ("MIG-x", "MIG-y"), strict=False))
    return Driver(uuids=("GPU-aa", "GPU-bb")[:gpus], instances={gpu: names})


@pytest.mark.parametrize("chosen", [None, "0", "GPU-aa", "MIG-x", "MIG-x,MIG-y"])
def test_a_container_with_one_instance_of_a_gpu_has_the_instances_memory(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    driver = install(monkeypatch, divided())
    machine = probe({} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen})
    assert (machine.gpus, machine.unreadable) == ((SLICE,), ())
    assert "GPU 0 GPU GPU-aa MIG 1g.10gb (9.0 GiB of 10.0 GiB free)" in machine.explain()
    assert driver.open == 0


@pytest.mark.parametrize(
    ("chosen", "uuid"),
    [(None, "MIG-x"), ("MIG-y", "MIG-y"), ("MIG-y,MIG-x", "MIG-y"), ("0", "MIG-x")],
)
def test_of_several_instances_cuda_shows_the_first_or_the_first_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, uuid: str
) -> None:
    install(monkeypatch, divided(numbers=(1, 4)))
    found = nvidia_gpus({} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen})
    assert [gpu.uuid for gpu in found] == [uuid]


@pytest.mark.parametrize("gpu", [0, 1])
def test_beside_an_instance_cuda_shows_no_whole_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: int
) -> None:
    install(monkeypatch, divided(gpu=gpu, gpus=2))
    assert [each.uuid for each in nvidia_gpus({})] == ["MIG-x"]


def test_a_divided_gpu_without_an_instance_for_this_container_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, divided(numbers=()))
    machine = probe({})
    assert machine.gpus == ()
    assert "GPU 0 GPU GPU-aa (it is divided by MIG" in machine.unreadable[0]


@pytest.mark.slow
def test_what_ran_before_our_first_line_counts_as_the_interpreters() -> None:
    script = (
        "import time; time.sleep(0.3); import gguf_worker; time.sleep(0.3);"
        "from gguf_worker.config import interpreter_seconds, process_seconds;"
        "print(interpreter_seconds(), process_seconds())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    before, all_of_it = map(float, done.stdout.split())
    assert 0.28 < before < all_of_it - 0.28


@pytest.mark.slow
def test_the_age_of_a_process_counts_from_its_start_whatever_the_time_of_day_does() -> None:
    script = (
        "import time; from gguf_worker.config import process_seconds as age;"
        "first = age(); time.sleep(0.3); print(first, age())"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    took = time.monotonic() - began
    first, second = map(float, done.stdout.split())
    assert 0 < first < second - 0.29 < took
    assert second <= took + 0.02


def test_a_mapped_file_counts_where_it_is_in_memory_and_a_process_that_is_gone_has_none(
    tmp_path: Path,
) -> None:
    file = tmp_path / "model"
    file.write_bytes(bytes(8 << 20))
    before = mapped_bytes(os.getpid())
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        assert mapped_bytes(os.getpid()) - before >= 8 << 20
    assert mapped_bytes(2**30) == 0
