from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.image import published_wheel
from builder.image.published_wheel import (
    TO_COMPILE,
    TRIES,
    Published,
    Unreachable,
    Wrong,
    fetch,
    main,
    published,
)
from tests.local_server import Cut, Exchange, LocalServer
from tests.paths import ROOT

KEY = "3735928559-312"
NAME = "llama_cpp_python-1.2.3-py3-none-linux_x86_64.whl"
WHEEL = b"compiled once " * 10_000
SHA256 = hashlib.sha256(WHEEL).hexdigest()
LINE = f"{KEY} {SHA256} https://host.example/llama-{KEY}/{NAME}"


class Host:
    """Gives the wheel. `faults`: of the next answers, each a status or where it is cut."""

    def __init__(self) -> None:
        self.faults: list[int | Cut] = []
        self.asked = 0
        self._server = LocalServer(self._answer)

    def __enter__(self) -> Host:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def wheel(self, sha256: str = SHA256) -> Published:
        return Published(sha256, f"http://127.0.0.1:{self._server.port}/{NAME}", NAME)

    def _answer(self, exchange: Exchange) -> None:
        self.asked += 1
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            exchange.reply(fault, {})
        else:
            exchange.send({}, WHEEL, fault)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask no proxy for what is on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_the_committed_list_is_well_formed() -> None:
    published((ROOT / "builder/llama-wheels.txt").read_text(encoding="utf-8"))


def test_a_line_is_the_wheel_of_its_key() -> None:
    (found,) = published(f"# a comment\n\n{LINE}\n").items()
    assert found == (KEY, Published(SHA256, LINE.split()[2], NAME))


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace("https:", "http:"),
        LINE.replace(SHA256, SHA256[:-1]),
        LINE.replace(".whl", ".tar.gz"),
        LINE.replace(KEY, "key"),
        LINE + " more",
        f" {LINE}",
        f"{LINE}\n{LINE}",
    ],
)
def test_a_line_that_is_not_well_formed_ends_the_build(line: str, tmp_path: Path) -> None:
    with pytest.raises(Wrong):
        published(line)
    (tmp_path / "list").write_text(line)
    assert main(str(tmp_path / "list"), KEY, str(tmp_path)) not in (0, TO_COMPILE)


def test_a_key_without_a_line_is_compiled_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text(LINE)
    assert main(str(tmp_path / "list"), "1-2", str(tmp_path)) == TO_COMPILE
    assert "1-2" in capsys.readouterr().out


def test_the_wheel_that_was_published_is_taken_under_its_name(host: Host, tmp_path: Path) -> None:
    fetch(host.wheel(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {NAME: WHEEL}


def test_a_host_that_fails_once_or_cuts_an_answer_is_asked_again(
    host: Host, tmp_path: Path
) -> None:
    host.faults = [503, Cut(1000)]
    fetch(host.wheel(), tmp_path, pause=0)
    assert (tmp_path / NAME).read_bytes() == WHEEL
    assert host.asked == 3


@pytest.mark.parametrize("fault", [404, Cut(1000)], ids=str)
def test_a_wheel_that_cannot_be_had_leaves_nothing(
    host: Host, tmp_path: Path, fault: int | Cut
) -> None:
    host.faults = [fault] * TRIES
    with pytest.raises(Unreachable):
        fetch(host.wheel(), tmp_path, pause=0)
    assert not list(tmp_path.iterdir())


def test_other_bytes_than_were_published_are_never_taken(host: Host, tmp_path: Path) -> None:
    with pytest.raises(Wrong, match=r"0{64}"):
        fetch(host.wheel("0" * 64), tmp_path, pause=0)
    assert not list(tmp_path.iterdir())
    assert host.asked == 1


@pytest.mark.parametrize(
    ("failure", "compiled"), [(Unreachable("it is away"), True), (Wrong("other bytes"), False)]
)
def test_only_a_wheel_out_of_reach_is_compiled_instead(
    failure: Exception, compiled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(wheel: Published, folder: Path) -> None:
        raise failure

    monkeypatch.setattr(published_wheel, "fetch", fail)
    (tmp_path / "list").write_text(LINE)
    status = main(str(tmp_path / "list"), KEY, str(tmp_path))
    assert (status == TO_COMPILE) == compiled
    assert status != 0
