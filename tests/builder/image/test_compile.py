from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_web import FakeWeb, make_certificate
from tests.local_server import Status
from tests.paths import ROOT

ROOTED = re.compile(r"(?<=[ =])/(build|compiled|etc|tmp|run/secrets|usr/local/cuda)/")
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
        self.apt = root / "apt-calls"
        for folder in ("bin", "build", "compiled", "etc", "run/secrets", "tmp"):
            (root / folder).mkdir(parents=True)
        for folder in ("bin", "lib64"):
            (root / "usr/local/cuda" / folder).mkdir(parents=True)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)
        apt = f'echo "$*" >>"{self.apt}"\n'
        for name, body in (("python3", PYTHON), ("pip", PIP), ("apt-get", apt)):
            self._add(self.bin / name, body)
        self.has_compiler("12.2.0")
        self.has_toolkit("12.8.93")
        self.is_system("debian", "12", "bookworm")
        for library in ("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"):
            (root / "usr/local/cuda/lib64" / library).touch()
        (root / "build/requirements-llama.txt").write_text("llama-cpp-python==1\n")
        self.wheels = root / "build/llama-wheels.txt"
        self.wheels.write_text("# KEY SHA256 ADDRESS\n")
        shutil.copy(ROOT / "builder/image/published_wheel.py", root / "build")
        # The script names the stage's own folders, which a test has below its own.
        script = (ROOT / "builder/image/compile.sh").read_text()
        script = ROOTED.sub(lambda found: f"{root}{found[0]}", script)
        (root / "compile.sh").write_text(script)

    def has_toolkit(self, version: str) -> None:
        """Have a CUDA toolkit of this version, and no other one."""
        nvcc = self.root / "usr/local/cuda/bin/nvcc"
        self._add(nvcc, f"echo Cuda compilation tools, release 12.8, V{version}\n")

    def has_compiler(self, version: str) -> None:
        """Have a C++ compiler of this version, and no other one."""
        self._add(self.bin / "c++", f"echo c++ {version}\n")

    def has_no_compiler(self) -> None:
        """Have none: it has to be installed."""
        (self.bin / "c++").unlink()

    def is_system(self, id: str, version: str, codename: str) -> None:
        """Be this system: its id, version and code name in /etc/os-release."""
        named = f'ID={id}\nVERSION_ID="{version}"\nVERSION_CODENAME={codename}\n'
        (self.root / "etc/os-release").write_text(named)

    def is_lent(self, sources: str) -> None:
        """Get a list of Debian's mirrors from the building machine."""
        (self.root / "run/secrets/apt_sources").write_text(sources)

    @staticmethod
    def _add(program: Path, body: str) -> None:
        program.write_text(f"#!/bin/sh\n{body}")
        program.chmod(0o755)

    def compile(self, accel: str, wheels: str = "wheels") -> list[str]:
        """Compile for `accel`, and return the flags of each build that this caused."""
        before = len(self.log.read_text().splitlines()) if self.log.exists() else 0
        shutil.rmtree(self.root / "tmp")
        (self.root / "tmp").mkdir()
        self.done = subprocess.run(
            ["sh", str(self.root / "compile.sh"), accel, str(self.root / wheels), self.cuda],
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


@pytest.mark.parametrize(
    ("id", "version", "codename", "lent"),
    [
        ("debian", "12", "bookworm", True),
        ("debian", "13", "trixie", False),
        ("ubuntu", "22.04", "jammy", False),
        ("raspbian", "12", "bookworm", False),
    ],
)
def test_only_a_base_of_that_debian_gets_the_mirrors_of_this_machine(
    stage: Stage, id: str, version: str, codename: str, lent: bool
) -> None:
    stage.has_no_compiler()
    stage.is_system(id, version, codename)
    stage.is_lent(
        "deb http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
    )
    stage.compile("cpu")
    update, install = stage.apt.read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install --yes --no-install-recommends g++")
    for call in (update, install):
        assert ("/run/secrets/apt_sources" in call) == lent


def test_a_system_without_a_version_is_a_base_too(stage: Stage) -> None:
    (stage.root / "etc/os-release").write_text("ID=debian\n")
    stage.is_lent("deb http://mirror.example/debian bookworm main\n")
    stage.has_no_compiler()
    assert len(stage.compile("cpu")) == 1
    assert "apt_sources" not in stage.apt.read_text()


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
    assert "for each of the architectures 90-real" in stage.done.stdout


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
