from __future__ import annotations

from gguf_worker.api.reading import CallIds


def test_a_result_belongs_to_the_call_that_it_names() -> None:
    ids = CallIds()
    assert [ids.call("a"), ids.call("b")] == ["a", "b"]
    assert ids.result("b") == "b"
    assert ids.result("a") == "a"


def test_a_call_without_an_id_gets_one_that_no_other_has() -> None:
    ids = CallIds()
    assert len({ids.call(""), ids.call(""), ids.call("c")}) == 3


def test_results_without_ids_belong_to_the_calls_in_their_order() -> None:
    ids = CallIds()
    made = [ids.call(""), ids.call("b"), ids.call("")]
    assert [ids.result(""), ids.result(""), ids.result("")] == made


def test_a_call_is_known_by_its_alias() -> None:
    ids = CallIds()
    assert ids.call("a", "item") == "a"
    assert ids.call("", "other") == "other"
    assert ids.result("", "item") == "a"
    assert "item" in ids
    assert "nothing" not in ids


def test_a_result_of_no_call_has_none() -> None:
    ids = CallIds()
    assert ids.result("a") is None
    assert ids.result("", "item") is None
    ids.call("b")
    assert ids.result("a") is None
    assert ids.result("") == "b"
