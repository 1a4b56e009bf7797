from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from gguf_worker.chat import override as template
from gguf_worker.chat.override import MOST_BYTES, read_template
from gguf_worker.errors import ConfigError
from tests.chat.template_shapes import SHAPES

GOOD = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def _read(path: Path) -> str:
    return read_template(path, bos="<s>", eos="</s>")


def test_a_template_that_writes_a_chat_down_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert _read(path) == GOOD


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("line one\n{% for m in messages %}", r"does not compile: .* \(line 2\)"),
        ("\n\n{{ messages[0].content + 1 }}", r"of one question down \(line 3\): .*str"),
        ("{{ messages[0].content }}\n{{ raise_exception('no system') }}", r"\(line 2\).*no system"),
        ("{{ ''.__class__.__mro__ }}", r"of one question down \(line 1\): .*unsafe"),
        ("{{ 'x' * 10**9 }}", "is longer than"),
        ("{{ '%1000000000d' % 1 }}", "a width is longer than"),
        ("{{ '%(a)-01000000000d' % {'a': 1} }}", "a width is longer than"),
        ("{{ '%1000000000d'|format(1) }}", "a width is longer than"),
        ("{{ '%.*f' % (1000000000, 1) }}", "a width is longer than"),
        ("You are a helpful assistant.", "leaves the question out"),
        ("", "leaves the question out"),
    ],
)
def test_a_template_that_does_not_work_is_refused_with_its_line(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as refused:
        _read(path)
    assert refused.value.param == "CHAT_TEMPLATE"
    assert str(path) in refused.value.message
    assert "unset CHAT_TEMPLATE" in refused.value.message


def test_a_template_that_does_not_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "_LONGEST_SECONDS", 0.2)
    path = tmp_path / "chat.jinja"
    path.write_text(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + GOOD
    )
    before = sys.gettrace()
    with pytest.raises(ConfigError, match=r"takes longer than 0 seconds"):
        _read(path)
    assert sys.gettrace() is before


def test_widths_that_templates_have_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(
        "{{ '%05d %s %.2f%% 123456' % (7, 'x', 0.5) }}{{ 7 % 4 }}"
        "{{ '%(a)s'|format(a=1) }}{{ '%s'|format(1) }}" + GOOD
    )
    assert _read(path).endswith(GOOD)


def test_a_file_that_is_no_template_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        _read(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        _read(tmp_path)
    path.write_bytes(b"GGUF\xff\xff")
    with pytest.raises(ConfigError, match=r"is no text \(byte 4"):
        _read(path)
    path.write_bytes(b"x" * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="is longer than 1,048,576 bytes"):
        _read(path)


@pytest.mark.parametrize(("number", "permanent"), [(errno.ESTALE, False), (errno.EACCES, True)])
def test_a_template_that_cannot_be_read_now_may_be_readable_elsewhere(
    number: int, permanent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(ConfigError, match=os.strerror(number)) as refused:
        _read(tmp_path / "chat.jinja")
    assert refused.value.permanent is permanent


@pytest.mark.parametrize("shape", ["SmolVLM", "Gemma 2", "Qwen3.5", "typed parts, strict"])
def test_a_template_that_takes_messages_in_a_form_of_its_own_is_taken(
    tmp_path: Path, shape: str
) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(SHAPES[shape])
    assert _read(path) == SHAPES[shape]
