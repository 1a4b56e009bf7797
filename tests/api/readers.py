"""Small bodies, read by the reader of each dialect, for the tests of their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gguf_worker.api.native import read_native
from gguf_worker.api.openai import read_chat, read_completion
from gguf_worker.api.reading import GenerationCall
from gguf_worker.errors import InvalidRequest

ReadBody = Callable[..., GenerationCall]


def native(**body: Any) -> GenerationCall:
    return read_native({"prompt": "Hi", **body}, id="r1", deadline=None)


def chat(**body: Any) -> GenerationCall:
    messages = [{"role": "user", "content": "Hi"}]
    return read_chat({"messages": messages, **body}, id="r1", deadline=None)


def completion(**body: Any) -> GenerationCall:
    return read_completion({"prompt": "Hi", **body}, id="r1", deadline=None)


def fault(read: ReadBody, **body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(**body)
    assert caught.value.__context__ is None or "Hi" not in str(caught.value.__context__)
    return caught.value


def body_fault(body: Mapping[str, Any], read: ReadBody = read_native) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(body, id="r1", deadline=None)
    return caught.value
