from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.builder.machine import Machine
from tests.dockerfile import dockerfile

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
    """A machine with a docker client, which notes down what it is asked to do."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        machine.has("basename", "cp", "env", "head", "sort")
        self.log = folder / "log"
        self.cert = folder / "authorities.crt"
        self.cert.write_text("an authority")
        machine.add("docker", DOCKER)
        machine.add("python3", PIP_CONFIG)
        machine.log_in(1000)

    def build(self, *arguments: str, **more: str) -> str:
        """Build an image, and return what docker was asked for."""
        given = {"LOG": str(self.log), "CERT": str(self.cert), "DOCKER_IS_DOWN": "0", **more}
        self.last = self.machine.run("build_image.sh", *arguments, **given)
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def images(machine: Machine, tmp_path: Path) -> Images:
    return Images(machine, tmp_path)


def test_the_image_is_built_by_docker_where_its_daemon_answers(images: Images) -> None:
    asked = images.build("cpu", "worker:cpu", RUNTIME_IMAGE="debian:12", MODEL="org/repo:Q4_0")
    assert images.last.returncode == 0, images.last.stderr
    assert asked.startswith("build ")
    assert "--tag worker:cpu" in asked
    for argument in ("ACCEL=cpu", "RUNTIME_IMAGE=debian:12", "MODEL=org/repo:Q4_0"):
        assert f"--build-arg {argument}" in asked
    assert "BASE_IMAGE" not in asked


def test_a_token_is_lent_to_the_build_as_a_secret_and_never_as_an_argument(images: Images) -> None:
    asked = images.build("cpu", "worker:cpu", HF_TOKEN="hf_secret")
    assert "id=HF_TOKEN: hf_secret" in asked
    assert "hf_secret" not in asked.splitlines()[0]


def test_how_pip_reaches_its_index_here_is_lent_to_the_build_and_nothing_is_left(
    images: Images, tmp_path: Path
) -> None:
    asked = images.build("cpu", "worker:cpu")
    assert "index-url = https://mirror.example/simple" in asked
    assert "cert = /run/secrets/ca_certificates" in asked
    assert "id=ca_certificates: an authority" in asked
    assert "/opt/" not in asked
    assert not list(tmp_path.glob("gguf-worker-build.*"))


def test_without_docker_and_without_root_the_image_needs_one_of_them(images: Images) -> None:
    assert images.build("cpu", "worker:cpu", DOCKER_IS_DOWN="1") == ""
    assert images.last.returncode == 1
    assert "Start docker, or run this as root" in images.last.stderr


def test_an_image_for_something_else_is_refused(images: Images) -> None:
    assert images.build("rocm", "worker:rocm") == ""
    assert "cpu or cuda, not for 'rocm'" in images.last.stderr


def test_all_arguments_of_the_dockerfile_can_be_given_by_variables(images: Images) -> None:
    arguments = {words.split("=")[0] for name, words in dockerfile() if name == "ARG"}
    given = {name: f"the-{name}" for name in arguments - {"ACCEL"}}
    asked = images.build("cpu", "worker:cpu", **given)
    assert dict(re.findall(r"--build-arg (\w+)=(\S+)", asked)) == {**given, "ACCEL": "cpu"}


def test_the_dockerfile_has_no_argument_or_variable_for_a_token() -> None:
    assert not [
        words for name, words in dockerfile() if name in ("ARG", "ENV") and "TOKEN" in words
    ]
