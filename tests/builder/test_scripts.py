"""The shell scripts of `make`, with a PATH of nothing but what a test puts there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "sh cat cksum date dirname grep mktemp rm sed sleep tail tr"


class Machine:
    """A machine with the programs that a script needs, and those that a test adds."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.scripts = folder / "builder"
        shutil.copytree(ROOT / "builder", self.scripts)
        self.environment = {
            "PATH": str(self.bin),
            "CUDA_HOME": str(folder / "no-cuda"),
            "TMPDIR": str(folder),
        }
        for tool in TOOLS.split():
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)

    def add(self, program: str, body: str) -> None:
        path = self.bin / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(self.scripts / script), *arguments],
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


GPU = "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'"
NO_GPU = "echo 'NVIDIA-SMI has failed' >&2; exit 9"


# --- accel.sh ---


@pytest.mark.parametrize(
    ("gpu", "compiler", "accel"),
    [(True, True, "cuda"), (True, False, "cpu"), (False, True, "cpu"), (False, False, "cpu")],
)
def test_auto_is_cuda_only_with_both_a_gpu_and_a_compiler(
    machine: Machine, gpu: bool, compiler: bool, accel: str
) -> None:
    machine.add("nvidia-smi", GPU if gpu else NO_GPU)
    if compiler:
        machine.add("nvcc", "exit 0")
    done = machine.run("accel.sh", "auto")
    assert (done.returncode, done.stdout.split()[0]) == (0, accel)


def test_auto_without_the_drivers_program_is_cpu(machine: Machine) -> None:
    machine.add("nvcc", "exit 0")
    assert machine.run("accel.sh", "auto").stdout.startswith("cpu ")


def test_a_cuda_compiler_is_found_where_the_toolkit_says_it_is(machine: Machine) -> None:
    machine.add("nvidia-smi", GPU)
    machine.add("toolkit/bin/nvcc", "exit 0")
    done = machine.run("accel.sh", "auto", CUDA_HOME=str(machine.bin / "toolkit"))
    assert done.stdout.startswith("cuda ")


def test_cuda_without_its_compiler_is_refused(machine: Machine) -> None:
    machine.add("nvidia-smi", GPU)
    done = machine.run("accel.sh", "cuda")
    assert done.returncode == 1
    assert "nvcc" in done.stderr


def test_cuda_needs_no_gpu_to_be_built(machine: Machine) -> None:
    machine.add("nvcc", "exit 0")
    assert machine.run("accel.sh", "cuda").stdout.startswith("cuda ")


def test_an_unknown_accel_is_refused_with_what_it_can_be(machine: Machine) -> None:
    done = machine.run("accel.sh", "rocm")
    assert done.returncode == 1
    assert "'rocm'" in done.stderr
    assert "auto, cpu or cuda" in done.stderr


# --- llama.sh ---


class Builds:
    """A virtual environment whose pip notes down how llama-cpp-python would be built."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.venv = folder / "venv"
        self.calls = folder / "calls"
        self.calls.touch()
        machine.add("c++", "exit 0")
        machine.add("nvcc", "exit 0")
        self.pip(0)

    def pip(self, status: int) -> None:
        body = f"""case "$*" in *"cache dir") echo /pip-cache; exit;; esac
            echo "$CMAKE_ARGS : $*" >>{self.calls}; echo "pip says so"; exit {status}"""
        self.machine.add(os.path.relpath(self.venv / "bin/python", self.machine.bin), body)

    def make(self, accel: str, **more: str) -> list[str]:
        """The builds that this run caused."""
        before = len(self.calls.read_text().splitlines())
        self.last = self.machine.run("llama.sh", str(self.venv), accel, **more)
        return self.calls.read_text().splitlines()[before:]


@pytest.fixture
def builds(machine: Machine, tmp_path: Path) -> Builds:
    return Builds(machine, tmp_path)


def test_it_is_built_once(builds: Builds) -> None:
    (build,) = builds.make("cpu")
    assert "--require-hashes" in build
    assert builds.last.returncode == 0
    assert builds.make("cpu") == []
    assert builds.last.stdout == ""


def test_what_is_installed_already_is_kept_the_first_time(builds: Builds) -> None:
    (build,) = builds.make("cpu")
    assert "--force-reinstall" not in build
    assert "--cache-dir" not in build


def test_another_accel_is_built_anew_and_apart_from_pips_own_cache(builds: Builds) -> None:
    builds.make("cpu")
    (build,) = builds.make("cuda")
    assert build.startswith("-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native")
    assert "--force-reinstall" in build
    assert "--cache-dir /pip-cache/gguf-worker/" in build
    (back,) = builds.make("cpu")
    assert "--force-reinstall" in back
    assert "--cache-dir" not in back


def test_build_flags_of_the_user_are_added_and_change_the_build(builds: Builds) -> None:
    builds.make("cpu")
    (build,) = builds.make("cpu", CMAKE_ARGS="-DGGML_NATIVE=OFF")
    assert build.startswith("-DGGML_NATIVE=OFF :")
    assert "--cache-dir" in build
    assert builds.make("cpu", CMAKE_ARGS="-DGGML_NATIVE=OFF") == []


def test_another_locked_version_is_built_anew(builds: Builds) -> None:
    builds.make("cpu")
    (builds.machine.scripts / "requirements-llama.txt").write_text("llama-cpp-python==9\n")
    assert len(builds.make("cpu")) == 1


def test_a_failed_build_says_so_and_is_tried_again(builds: Builds) -> None:
    builds.pip(1)
    assert len(builds.make("cpu")) == 1
    assert builds.last.returncode == 1
    assert "pip says so" in builds.last.stderr
    builds.pip(0)
    assert len(builds.make("cpu")) == 1
    assert builds.last.returncode == 0


def test_without_a_cpp_compiler_it_says_what_to_install(builds: Builds) -> None:
    (builds.machine.bin / "c++").unlink()
    assert builds.make("cpu") == []
    assert builds.last.returncode == 1
    assert "g++" in builds.last.stderr


# --- venv.sh ---


def python(version: str, *, old: bool = False, whole: bool = True) -> str:
    return f"""case "$*" in
        *platform*) echo {version} ;;
        *version_info*) exit {int(old)} ;;
        *ensurepip*) exit {int(not whole)} ;;
        *"-m venv"*) echo "made: $*" ;;
    esac"""


def test_a_python_that_is_new_enough_makes_the_environment(machine: Machine) -> None:
    machine.add("python3", python("3.12.4"))
    done = machine.run("venv.sh", "python3", ".venv")
    assert done.returncode == 0
    assert "made: -m venv --clear .venv" in done.stdout


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (None, "there is no 'python3'"),
        ("exit 127", "'python3' does not run"),
        (python("3.10.12", old=True), "is Python 3.10.12; 3.11 or newer is needed"),
        (python("3.11.2", whole=False), "python3-venv"),
    ],
)
def test_what_is_missing_for_an_environment_is_said(
    machine: Machine, body: str | None, told: str
) -> None:
    if body:
        machine.add("python3", body)
    done = machine.run("venv.sh", "python3", ".venv")
    assert done.returncode == 1
    assert told in done.stderr


# --- progress.sh ---


def test_a_quiet_success_shows_nothing_of_the_command_and_keeps_no_log(machine: Machine) -> None:
    done = machine.run("progress.sh", "Working", "sh", "-c", "echo chatter")
    assert done.returncode == 0
    assert done.stdout.startswith("==> Working\n    done in ")
    assert "chatter" not in done.stdout + done.stderr
    assert not list(Path(machine.environment["TMPDIR"]).glob("gguf-worker.*"))


def test_a_failure_shows_the_end_of_the_log_and_its_place(machine: Machine) -> None:
    done = machine.run("progress.sh", "Working", "sh", "-c", "echo the reason; exit 3")
    assert done.returncode == 3
    assert "the reason" in done.stderr
    (log,) = Path(machine.environment["TMPDIR"]).glob("gguf-worker.*")
    assert str(log) in done.stderr
    assert log.read_text() == "the reason\n"


def read_until(lines: Callable[[], str], wanted: str) -> str:
    while line := lines():
        if wanted in line:
            return line
    raise AssertionError(f"the output ended without {wanted!r}")


def test_a_build_tells_how_far_it_is(machine: Machine) -> None:
    building = "echo '  [5/20] Building CXX object a.o'; read enough"
    with subprocess.Popen(
        ["/bin/sh", str(machine.scripts / "progress.sh"), "Building", "sh", "-c", building],
        env={**machine.environment, "PROGRESS_SECONDS": "0.05"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert " s, 25 % built" in read_until(process.stdout.readline, "%")
        process.stdin.write("enough\n")
        process.stdin.close()
        read_until(process.stdout.readline, "done in")
    assert process.returncode == 0


ROOT_USER = "echo 0"
APT = 'echo "$*" >>"$LOG"'


def test_a_browser_that_is_there_is_enough(machine: Machine) -> None:
    machine.add("chromium", "exit 1")
    machine.add("id", "exit 1")
    done = machine.run("browser.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_root_gets_a_browser_from_debian(machine: Machine, tmp_path: Path) -> None:
    machine.add("id", ROOT_USER)
    machine.add("apt-get", APT)
    log = tmp_path / "log"
    done = machine.run("browser.sh", LOG=str(log))
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines() == [
        "update",
        "install --yes --no-install-recommends chromium",
    ]


@pytest.mark.parametrize(
    ("user", "apt"), [("echo 1000", APT), (ROOT_USER, None), (ROOT_USER, "exit 100")]
)
def test_who_cannot_install_a_browser_is_told_how(
    machine: Machine, tmp_path: Path, user: str, apt: str | None
) -> None:
    machine.add("id", user)
    if apt:
        machine.add("apt-get", apt)
    done = machine.run("browser.sh", LOG=str(tmp_path / "log"))
    assert done.returncode == 0
    assert "apt-get install chromium" in done.stderr
    assert not (tmp_path / "log").exists()


NPM = """
echo "$*" >>"$LOG"
echo >"$6/node_modules/.package-lock.json"
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "node"
    (folder / "node_modules").mkdir(parents=True)
    (folder / "package-lock.json").touch()
    os.utime(folder / "package-lock.json", (0, 0))
    return folder


def test_nodes_packages_are_installed_once(machine: Machine, package: Path, tmp_path: Path) -> None:
    machine.add("npm", NPM)
    log = tmp_path / "log"
    for _ in range(2):
        done = machine.run("node.sh", str(package), LOG=str(log))
        assert done.returncode == 0, done.stderr
    (line,) = log.read_text().splitlines()
    assert line.startswith("ci --ignore-scripts")


def test_root_gets_node_from_debian(machine: Machine, package: Path, tmp_path: Path) -> None:
    machine.add("id", ROOT_USER)
    machine.add("apt-get", APT)
    log = tmp_path / "log"
    done = machine.run("node.sh", str(package), LOG=str(log))
    assert done.returncode == 0
    assert log.read_text().splitlines()[1] == "install --yes --no-install-recommends nodejs npm"


@pytest.mark.parametrize("npm", [None, "exit 1"], ids=["no npm", "no registry"])
def test_who_has_no_nodes_packages_is_told_so(
    machine: Machine, package: Path, npm: str | None
) -> None:
    machine.add("id", "echo 1000")
    if npm:
        machine.add("npm", npm)
    done = machine.run("node.sh", str(package))
    assert done.returncode == 0
    assert "tests with Node's client are left out" in done.stderr


# --- build_image.sh ---

DOCKER = """
case "$1" in info) exit "$DOCKER_IS_DOWN" ;; esac
echo "$*" >>"$LOG"
for argument; do
    case "$argument" in id=*) echo "${argument%%,*}: $(cat "${argument#*src=}")" >>"$LOG" ;; esac
done
"""
PIP_CONFIG = """echo "global.index-url='https://mirror.example/simple'"
echo ":env:.find-links='/opt/wheels'"
echo "global.extra-index-url='file:///opt/simple'"
echo "global.cert='$CERT'"
"""


class Images:
    """A machine with a docker client, and what it was asked to do."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        for tool in ("basename", "cp", "env", "grep", "head", "sort"):
            found = shutil.which(tool)
            assert found, tool
            with contextlib.suppress(FileExistsError):
                (machine.bin / tool).symlink_to(found)
        self.log = folder / "log"
        self.cert = folder / "authorities.crt"
        self.cert.write_text("an authority")
        machine.add("docker", DOCKER)
        machine.add("python3", PIP_CONFIG)
        machine.add("id", "echo 1000")

    def build(self, *arguments: str, down: bool = False, **more: str) -> str:
        """What docker was told."""
        given = {"LOG": str(self.log), "CERT": str(self.cert), "DOCKER_IS_DOWN": str(int(down))}
        self.last = self.machine.run("build_image.sh", *arguments, **given, **more)
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def images(machine: Machine, tmp_path: Path) -> Images:
    return Images(machine, tmp_path)


def test_the_image_is_built_by_docker_where_its_daemon_answers(images: Images) -> None:
    told = images.build("cpu", "worker:cpu", RUNTIME_IMAGE="debian:12", MODEL="org/repo:Q4_0")
    assert images.last.returncode == 0, images.last.stderr
    assert told.startswith("build ")
    assert "--tag worker:cpu" in told
    for argument in ("ACCEL=cpu", "RUNTIME_IMAGE=debian:12", "MODEL=org/repo:Q4_0"):
        assert f"--build-arg {argument}" in told
    assert "BASE_IMAGE" not in told


def test_a_token_is_lent_to_the_build_as_a_secret_and_never_as_an_argument(images: Images) -> None:
    told = images.build("cpu", "worker:cpu", HF_TOKEN="hf_secret")
    assert "id=HF_TOKEN: hf_secret" in told
    assert "hf_secret" not in told.splitlines()[0]


def test_how_pip_reaches_its_index_here_is_lent_to_the_build_and_nothing_is_left(
    images: Images, tmp_path: Path
) -> None:
    told = images.build("cpu", "worker:cpu")
    assert "index-url = https://mirror.example/simple" in told
    assert "cert = /run/secrets/ca_certificates" in told
    assert "id=ca_certificates: an authority" in told
    assert "/opt/" not in told
    assert not list(tmp_path.glob("gguf-worker-build.*"))


def test_without_docker_and_without_root_the_image_needs_one_of_them(images: Images) -> None:
    assert images.build("cpu", "worker:cpu", down=True) == ""
    assert images.last.returncode == 1
    assert "Start docker, or run this as root" in images.last.stderr


def test_an_image_for_something_else_is_refused(images: Images) -> None:
    assert images.build("rocm", "worker:rocm") == ""
    assert "cpu or cuda, not for 'rocm'" in images.last.stderr


def test_root_gets_the_emulator_from_debian(machine: Machine, tmp_path: Path) -> None:
    machine.add("id", ROOT_USER)
    machine.add("apt-get", APT)
    log = tmp_path / "log"
    assert machine.run("emulator.sh", LOG=str(log)).returncode == 0
    assert log.read_text().splitlines()[1].endswith(" qemu-user-static")


def test_who_cannot_install_the_emulator_is_told_so(machine: Machine) -> None:
    machine.add("id", "echo 1000")
    done = machine.run("emulator.sh")
    assert done.returncode == 0
    assert "not tried on an older processor" in done.stderr
