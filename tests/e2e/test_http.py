"""The worker over HTTP, started as `make serve` does, with the official `openai` client."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.http_worker import Served
from tests.waiting import until

pytestmark = pytest.mark.e2e


def test_ping_says_starting_before_it_says_ready(served: Served) -> None:
    assert served.first_ping in (200, 204)
    assert httpx.get(f"{served.base}/ping").status_code == 200


def test_the_openai_client_lists_models_and_chats(served: Served) -> None:
    with served.client() as client:
        (model,) = client.models.list().data
        answer = client.chat.completions.create(
            model=model.id,
            messages=[{"role": "user", "content": "How many days are in a week?"}],
            temperature=0,
            max_tokens=20,
        )
    assert "7 days" in str(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_openai_client_streams_the_text_that_it_gets_whole(served: Served) -> None:
    with served.client() as client:
        (model,) = client.models.list().data
        ask = {"model": model.id, "prompt": "1, 2, 3, 4,", "temperature": 0, "max_tokens": 24}
        whole = client.completions.create(**ask)  # type: ignore[call-overload]
        stream = client.completions.create(**ask, stream=True)  # type: ignore[call-overload]
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert len(chunks) > 3


def test_errors_reach_the_openai_client_as_its_own_exceptions(served: Served) -> None:
    with served.client() as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.completions.create(model="another", prompt="Hi")
        with pytest.raises(openai.BadRequestError) as wrong:
            client.completions.create(model="x", prompt="Hi", temperature=-3)
    assert missing.value.code == "model_not_found"
    assert (wrong.value.code, wrong.value.param) == ("invalid_request", "temperature")
    with (
        openai.OpenAI(base_url=f"{served.base}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_client_that_drops_in_a_stream_frees_its_sequence(served: Served) -> None:
    with served.client() as client:
        (model,) = client.models.list().data
        stream = client.completions.create(
            model=model.id,
            prompt="Once upon a time",
            max_tokens=4000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        assert served.health()["running"] == 1
        stream.close()
    until(served.idle)
    metrics = httpx.get(f"{served.base}/metrics").text
    assert "gguf_worker_requests_cancelled_total" in metrics
