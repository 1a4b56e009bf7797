from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder.image.rooted import add_program, add_script, add_tools, is_system
from tests.fake_web import FakeWeb, make_certificate
from tests.local_server import Status
from tests.paths import ROOT

TOOLS = ("sh", "cat", "cksum", "cp", "grep", "mkdir", "mv", "rm", "tr", "uname")
PYTHON = """case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$PIP" "$3/bin/pip" ;;
    */published_wheel.py*) exec "$REAL" "$@" ;;
esac
"""
NAME = "llama_cpp_python-1.2.3-py3-none-linux_x86_64.whl"
PIP = """echo "$CMAKE_ARGS" >>"$LOG"
while [ "$1" != --wheel-dir ]; do shift; done
echo built >"$2/llama.whl"
"""


class Stage:
    """The stage of the image's build that compiles, with its absolute paths below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        self.bin = root / "bin"
        self.installed = root / "installed"
        for folder in ("build", "compiled", "run/secrets", "tmp", "usr/local/cuda/lib64"):
            (root / folder).mkdir(parents=True)
        add_tools(self.bin, *TOOLS)
        add_program(self.bin / "python3", PYTHON)
        add_program(self.bin / "pip", PIP)
        (root / "build/install.sh").write_text(f'echo "$*" >>"{self.installed}"\n')
        self.has_compiler("12.2.0")
        self.has_toolkit("12.8.93")
        self.is_system("debian", "12", "bookworm")
        for library in ("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"):
            (root / "usr/local/cuda/lib64" / library).touch()
        (root / "build/requirements-llama.txt").write_text("llama-cpp-python==1\n")
        self.wheels = root / "build/llama-wheels.txt"
        self.wheels.write_text("# KEY SHA256 ADDRESS\n")
        shutil.copy(ROOT / "builder/image/published_wheel.py", root / "build")
        add_script("compile.sh", root, root / "build")

    def has_toolkit(self, version: str) -> None:
        """Have a CUDA toolkit of this version, and no other one."""
        nvcc = self.root / "usr/local/cuda/bin/nvcc"
        add_program(nvcc, f"echo Cuda compilation tools, release 12.8, V{version}")

    def has_compiler(self, version: str) -> None:
        """Have a C++ compiler of this version, and no other one."""
        add_program(self.bin / "c++", f"echo c++ {version}")

    def has_no_compiler(self) -> None:
        """Have none: it has to be installed."""
        (self.bin / "c++").unlink()

    def is_system(self, id: str, version: str, codename: str) -> None:
        """Be this system: its id, version and code name in /etc/os-release."""
        is_system(self.root, id, version, codename)

    def compile(self, accel: str, wheels: str = "wheels") -> list[str]:
        """Compile for `accel`, and return the flags of each build that this caused."""
        before = len(self.log.read_text().splitlines()) if self.log.exists() else 0
        shutil.rmtree(self.root / "tmp")
        (self.root / "tmp").mkdir()
        self.done = subprocess.run(
            ["sh", str(self.root / "build/compile.sh"), accel, str(self.root / wheels), self.cuda],
            env={
                "PATH": str(self.bin),
                "LOG": str(self.log),
                "PIP": str(self.bin / "pip"),
                "REAL": sys.executable,
                "no_proxy": "127.0.0.1",
                "CUDA_ARCHITECTURES": "90-real",
            },
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert self.done.returncode == 0, self.done.stderr
        return self.log.read_text().splitlines()[before:] if self.log.exists() else []

    def key(self, accel: str) -> str:
        """Return the key of the wheel for `accel`."""
        self.compile(accel, "for-the-key")
        return (self.root / "for-the-key/key").read_text().strip()

    @property
    def cuda(self) -> str:
        return str(self.root / "cuda")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize("accel", ["cpu", "cuda"])
def test_no_code_is_for_the_building_machines_own_processor(stage: Stage, accel: str) -> None:
    (flags,) = stage.compile(accel)
    assert "-DGGML_NATIVE=OFF" in flags.split()
    assert "-DGGML_AVX2=ON" in flags.split()
    assert (stage.root / "wheels/llama.whl").read_text() == "built\n"


def test_with_cuda_its_architectures_are_built_and_its_libraries_come_along(stage: Stage) -> None:
    (flags,) = stage.compile("cuda")
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90-real"} <= set(flags.split())
    names = {path.name for path in Path(stage.cuda).iterdir()}
    assert names == {"libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"}


def test_a_wheel_is_compiled_once_for_all_that_it_is_made_from(stage: Stage) -> None:
    assert len(stage.compile("cpu")) == 1
    assert stage.compile("cpu", "again") == []
    assert (stage.root / "again/llama.whl").exists()
    (stage.root / "build/requirements-llama.txt").write_text("llama-cpp-python==2\n")
    assert len(stage.compile("cpu", "newer")) == 1


@pytest.mark.parametrize("accel", ["cpu", "cuda"])
def test_a_wheel_is_compiled_again_for_another_compiler_or_system(stage: Stage, accel: str) -> None:
    assert len(stage.compile(accel)) == 1
    stage.has_compiler("14.1.0")
    assert len(stage.compile(accel, "newer")) == 1
    stage.is_system("ubuntu", "22.04", "jammy")
    assert len(stage.compile(accel, "elsewhere")) == 1
    assert stage.compile(accel, "again") == []


def test_a_wheel_for_cuda_is_compiled_again_for_another_toolkit_only(stage: Stage) -> None:
    assert len(stage.compile("cuda")) == len(stage.compile("cpu", "plain")) == 1
    stage.has_toolkit("13.0.48")
    assert len(stage.compile("cuda", "newer")) == 1
    assert stage.compile("cuda", "again") == stage.compile("cpu", "same") == []


def test_a_compiler_is_installed_only_where_there_is_none(stage: Stage) -> None:
    stage.compile("cpu")
    assert not stage.installed.exists()
    stage.has_no_compiler()
    stage.compile("cpu", "again")
    assert stage.installed.read_text() == "g++\n"


@pytest.mark.parametrize("accel", ["cpu", "cuda"])
def test_what_computes_is_a_module_so_that_llama_cpp_starts_without_a_driver(
    stage: Stage, accel: str
) -> None:
    (flags,) = stage.compile(accel)
    assert "-DGGML_BACKEND_DL=ON" in flags.split()


def test_cudas_libraries_keep_their_times_so_that_their_layer_stays_the_same(stage: Stage) -> None:
    library = stage.root / "usr/local/cuda/lib64/libcudart.so.12"
    os.utime(library, (1_000_000_000, 1_000_000_000))
    stage.compile("cuda")
    assert (Path(stage.cuda) / library.name).stat().st_mtime == 1_000_000_000


# --- published wheels ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def host(certificate: Path, stage: Stage) -> Iterator[FakeWeb]:
    """Serve a published wheel to the stage, which trusts nobody else."""
    with FakeWeb(certificate, b"published\n") as host:
        (stage.root / "run/secrets/ca_certificates").write_text(certificate.read_text())
        yield host


def publish(stage: Stage, accel: str, address: str, content: bytes = b"published\n") -> None:
    """List a wheel of the stage's key, and forget the one that was compiled to learn the key."""
    line = f"{stage.key(accel)} {hashlib.sha256(content).hexdigest()} {address}\n"
    stage.wheels.write_text(line)
    shutil.rmtree(stage.root / "compiled")
    (stage.root / "compiled").mkdir()


@pytest.mark.parametrize("accel", ["cpu", "cuda"])
def test_a_published_wheel_of_the_key_is_taken_instead_of_compiling(
    stage: Stage, host: FakeWeb, accel: str
) -> None:
    publish(stage, accel, host.url(f"/{NAME}", "127.0.0.1"))
    assert stage.compile(accel) == []
    assert (stage.root / "wheels" / NAME).read_text() == "published\n"
    assert stage.compile(accel, "again") == []
    assert len(host.requests) == 1


def test_what_a_wheel_is_made_from_has_to_be_the_same_for_a_published_one(
    stage: Stage, host: FakeWeb
) -> None:
    publish(stage, "cuda", host.url(f"/{NAME}", "127.0.0.1"))
    stage.has_toolkit("12.8.99")
    assert len(stage.compile("cuda")) == 1
    assert host.requests == []
    assert "for each other one of 90-real" in stage.done.stdout


def test_other_bytes_than_were_published_end_the_build(stage: Stage, host: FakeWeb) -> None:
    publish(stage, "cuda", host.url(f"/{NAME}", "127.0.0.1"), b"other bytes\n")
    before = stage.log.read_text()
    with pytest.raises(AssertionError, match="was published"):
        stage.compile("cuda")
    assert stage.log.read_text() == before
    assert not (stage.root / "wheels").exists()
    assert not list((stage.root / "compiled").iterdir())


def test_a_published_wheel_that_cannot_be_reached_is_compiled_and_the_log_says_so(
    stage: Stage, host: FakeWeb
) -> None:
    publish(stage, "cuda", host.url(f"/{NAME}", "127.0.0.1"))
    host.misbehave(Status(404))
    assert len(stage.compile("cuda")) == 1
    assert "cannot be reached" in stage.done.stdout
    assert (stage.root / "wheels/llama.whl").read_text() == "built\n"
