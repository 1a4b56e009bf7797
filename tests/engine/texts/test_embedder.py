"""Texts to vectors: which requests share a batch, what a vector is, and how each request ends."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from gguf_worker.engine.messages import Delta, Embed, Failure
from gguf_worker.engine.texts.embedder import Embedder
from tests.fake_backend import VOCABULARY, FakePooler, FakeTokenizers


class Bench:
    """An embedder, what it has said, and the vectors of each request."""

    def __init__(self, pooler: FakePooler, most: int = 10, held: bool = False) -> None:
        self.pooler = pooler
        self.begun: list[tuple[int, ...]] = []
        self.news: list[Delta] = []
        self.read: list[tuple[int, ...]] = []
        self.tokenizers = FakeTokenizers(self.read.append, held=held)
        self.embedder = Embedder(
            pooler, vocabulary=VOCABULARY, most=most, tokenizers=self.tokenizers
        )

    def add(self, id: int, *texts: str | list[int], **more: Any) -> Failure | None:
        return self.embedder.add(Embed(id, texts, **more))

    def step(self, rows: int | None = None) -> int:
        computed, news = self.embedder.step(rows, self.begun.append)
        self.news += news
        return computed

    def finish(self) -> None:
        for _ in range(1000):
            if not len(self.embedder):
                return
            self.step()
        raise AssertionError("it goes on and on")

    def vectors(self, id: int) -> list[np.ndarray[Any, Any]]:
        raw = [vector for delta in self.news if delta.id == id for vector in delta.vectors]
        return [np.frombuffer(vector, "<f4") for vector in raw]

    def end(self, id: int) -> Delta:
        (last,) = [delta for delta in self.news if delta.id == id and delta.last]
        return last

    def failure(self, id: int) -> Failure:
        failure = self.end(id).failure
        assert failure is not None
        return failure


def bench(pooling: str = "mean", *, most: int = 10, held: bool = False, **more: Any) -> Bench:
    return Bench(FakePooler(pooling, **more), most, held)


def close_to(*values: float) -> Any:
    vector = np.array(values)
    return pytest.approx(list(vector / np.linalg.norm(vector)), abs=1e-6)


def batches(it: Bench) -> list[list[str]]:
    return [[text for text, _, _ in batch] for batch in it.pooler.batches]


# Vectors.


def test_the_vectors_of_the_texts_come_in_order_with_length_one() -> None:
    it = bench()
    assert it.add(1, "aab", "b", "abcd") is None
    it.finish()
    found = it.vectors(1)
    assert list(found[0]) == close_to(2, 1, 0, 0)
    assert list(found[1]) == close_to(0, 1, 0, 0)
    assert list(found[2]) == close_to(1, 1, 1, 1)
    end = it.end(1)
    assert end.finish == "stop"
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (8, 0)


def test_fewer_dimensions_are_the_first_ones_with_length_one_again() -> None:
    it = bench()
    it.add(1, "aabcd", dimensions=2)
    it.finish()
    assert list(it.vectors(1)[0]) == close_to(2, 1)


@pytest.mark.parametrize("dimensions", [0, -1, 5])
def test_dimensions_that_the_model_does_not_have_are_refused(dimensions: int) -> None:
    failure = bench().add(1, "a", dimensions=dimensions)
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_request", "dimensions")


def test_token_ids_are_taken_as_they_are() -> None:
    it = bench()
    it.add(1, [97, 97, 98])
    it.finish()
    assert list(it.vectors(1)[0]) == close_to(2, 1, 0, 0)
    assert it.pooler.tokenized == []


def test_a_score_is_the_models_own() -> None:
    it = bench("rank")
    assert it.add(1, "ab", "b", query="aa") is None
    it.finish()
    assert [float(score[0]) for score in it.vectors(1)] == pytest.approx([0.75, 2 / 3])


@pytest.mark.parametrize("text", ["a!", "000"])
def test_numbers_that_are_none_or_no_direction_are_a_failure_of_their_request_only(
    text: str,
) -> None:
    it = bench()
    it.add(1, "a", text, "b")
    it.add(2, "a")
    it.finish()
    assert it.failure(1).code == "generation_failed"
    assert len(it.vectors(1)) < 2
    assert it.end(2).finish == "stop"


@pytest.mark.parametrize("causal", [False, True])
def test_texts_that_shared_a_batch_with_one_without_numbers_are_computed_alone(
    causal: bool,
) -> None:
    it = bench(causal=causal, slots=9)
    it.add(1, "a", "ab")
    it.add(2, "b", "c!", "b")
    it.add(3, "c")
    it.step()
    it.add(4, "d")
    it.finish()
    first, *others = batches(it)
    assert sorted(first) == ["a", "ab", "b", "b", "c", "c!"]
    assert [each for each in others if "d" not in each] == [["a"], ["ab"], ["b"], ["c!"], ["c"]]
    assert it.failure(2).code == "generation_failed"
    assert [list(vector) for vector in it.vectors(1)] == [
        close_to(1, 0, 0, 0),
        close_to(1, 1, 0, 0),
    ]
    assert list(it.vectors(3)[0]) == close_to(0, 0, 1, 0)
    assert list(it.vectors(4)[0]) == close_to(0, 0, 0, 1)


def test_a_long_text_that_was_spoilt_is_read_anew_from_its_beginning() -> None:
    it = bench(causal=True, rows=4, longest=16)
    it.add(1, "aabbccdd")
    it.step()
    it.add(2, "!")
    it.finish()
    assert it.failure(2).code == "generation_failed"
    assert list(it.vectors(1)[0]) == close_to(1, 1, 1, 1)
    assert it.pooler.batches == [
        [("aabbccdd", 0, 4)],
        [("aabbccdd", 4, 2), ("!", 0, 1)],
        [("aabbccdd", 0, 4)],
        [("aabbccdd", 4, 4)],
        [("!", 0, 1)],
    ]


def test_a_request_may_be_dropped_while_its_texts_wait_to_be_computed_alone() -> None:
    it = bench(causal=True, rows=4, longest=16)
    it.add(1, "aaaa!aaa")
    it.add(2, "b")
    for _ in range(3):
        it.step()
    it.embedder.drop(1)
    assert not any(it.pooler.held.values())
    it.finish()
    assert list(it.vectors(2)[0]) == close_to(0, 1, 0, 0)


def test_a_flood_of_texts_without_numbers_has_others_computed_twice_at_most() -> None:
    chance = random.Random(1)
    it = bench(rows=16, slots=8, most=100)
    for id in range(40):
        it.add(id, "a!" if chance.random() < 0.5 else "ab")
        if chance.random() < 0.5:
            it.step()
    it.finish()
    ends = [it.end(id) for id in range(40)]
    good = [end for end in ends if end.failure is None]
    assert 10 < len(good) < 30
    assert sum(batch.count("ab") for batch in batches(it)) <= 2 * len(good)


def test_a_score_that_is_no_number_is_a_failure() -> None:
    it = bench("rank")
    it.add(1, "!", query="a")
    it.finish()
    assert it.failure(1).code == "generation_failed"


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_text_read_in_spans_has_the_vector_of_its_pooling(pooling: str) -> None:
    it = bench(pooling, causal=True, rows=4, longest=16)
    it.add(1, "aaaabbbbcc")
    it.finish()
    assert it.pooler.batches == [
        [("aaaabbbbcc", at, rows)] for at, rows in ((0, 4), (4, 4), (8, 2))
    ]
    expected = {"mean": (4, 4, 2, 0), "cls": (1, 0, 0, 0), "last": (0, 0, 1, 0)}
    assert list(it.vectors(1)[0]) == close_to(*expected[pooling])


# What is refused.


@pytest.mark.parametrize("asked", [{}, {"query": "a"}])
def test_a_model_is_not_asked_for_what_it_does_not_give(asked: dict[str, str]) -> None:
    failure = bench("mean" if asked else "rank").add(1, "a", **asked)
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_request", "model")
    assert "reranker" in failure.message


def test_nothing_to_read_is_refused() -> None:
    failure = bench().add(1)
    assert failure is not None
    assert failure.param == "input"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("", "invalid_request", "input[1] is empty"),
        ("deep", "invalid_request", "input[1]: too deep"),
        ([], "invalid_request", "input[1] is empty"),
        ("  ", "invalid_request", "input[1] has no tokens"),
        ([97, VOCABULARY], "invalid_request", "input[1] has a token id outside the vocabulary"),
        ([-1], "invalid_request", "input[1] has a token id outside the vocabulary"),
        (
            "a" * 17,
            "context_length_exceeded",
            "input[1] has 17 tokens, and this model's maximum context length is 16",
        ),
        ("a" * 70, "context_length_exceeded", "input[1] has at least 18 tokens"),
        ([97] * 17, "context_length_exceeded", "input[1] has 17 tokens"),
    ],
)
def test_a_text_that_cannot_be_read_is_named_and_nothing_is_computed(
    text: str | list[int], code: str, says: str
) -> None:
    it = bench()
    it.add(1, "a", text, "b")
    it.finish()
    failure = it.failure(1)
    assert (failure.code, failure.param) == (code, "input")
    assert says in failure.message
    assert it.pooler.batches == []


def test_a_document_that_is_too_long_with_its_query_is_named() -> None:
    it = bench("rank")
    it.add(1, "a", "b" * 10, query="q" * 8)
    it.finish()
    failure = it.failure(1)
    assert (failure.code, failure.param) == ("context_length_exceeded", "documents")
    assert failure.message.startswith("documents[1] with its query has 18 tokens")


def test_a_hopeless_text_is_not_tokenised() -> None:
    it = bench()
    it.add(1, "a" * 70)
    it.finish()
    assert it.pooler.tokenized == []


def test_a_document_with_a_hopeless_query_is_not_tokenised() -> None:
    it = bench("rank")
    it.add(1, "a", query="q" * 70)
    it.finish()
    failure = it.failure(1)
    assert failure.code == "context_length_exceeded"
    assert failure.message.startswith("documents[0] with its query has at least 18 tokens")
    assert it.pooler.tokenized == []


def test_no_token_id_of_too_many_is_looked_at() -> None:
    it = bench()
    it.add(1, [*[97] * 16, VOCABULARY])
    it.finish()
    assert it.failure(1).code == "context_length_exceeded"


def test_no_more_requests_are_taken_than_may_be_open() -> None:
    it = bench(most=2)
    assert it.add(1, "a") is None
    assert it.add(2, "a") is None
    failure = it.add(3, "a")
    assert failure is not None
    assert (failure.code, failure.retry_after) == ("overloaded", 1.0)
    it.step()
    assert it.add(4, "a") is None


# Batches.


def test_texts_of_several_requests_share_a_batch() -> None:
    it = bench()
    for id in (1, 2, 3):
        it.add(id, "abc")
    assert it.step() == 9
    assert batches(it) == [["abc", "abc", "abc"]]
    assert [delta.finish for delta in it.news] == ["stop"] * 3


def test_the_oldest_request_has_half_of_a_batch_and_the_others_go_in_turns() -> None:
    it = bench(rows=8, slots=9)
    it.add(1, *["aa"] * 9)
    it.add(2, *["b"] * 4)
    it.add(3, "c", "cc")
    it.step()
    assert batches(it) == [["aa", "aa", "b", "c", "aa"]]
    it.finish()
    assert len(it.vectors(1)) == 9


def test_many_short_texts_of_one_request_leave_ids_to_the_others() -> None:
    it = bench(slots=5)
    it.add(1, *"aaaaaaaa")
    it.add(2, "b")
    it.step()
    assert batches(it) == [["a", "a", "b", "a"]]


def test_a_batch_has_as_many_texts_as_there_are_ids_but_one() -> None:
    it = bench(slots=3)
    it.add(1, *"abcd")
    it.finish()
    assert batches(it) == [["a", "b"], ["c", "d"]]


def test_a_text_that_fits_passes_one_that_does_not() -> None:
    it = bench(rows=8)
    it.add(1, "aaaaa", "aaaaa")
    it.add(2, "bb")
    it.step()
    assert batches(it) == [["aaaaa", "bb"]]


def test_while_others_generate_a_batch_is_small() -> None:
    it = bench()
    it.add(1, *["aaa"] * 4)
    assert it.step(6) == 6
    assert it.step() == 6


def test_a_text_that_must_be_read_at_once_is_however_small_a_batch_should_be() -> None:
    it = bench()
    it.add(1, "a" * 12, "b")
    it.add(2, "c")
    assert it.step(4) == 12
    assert it.step(4) == 2
    assert batches(it) == [["a" * 12], ["b", "c"]]


def test_a_long_text_is_read_in_spans_beside_the_texts_of_others() -> None:
    it = bench("last", causal=True, rows=4, longest=16)
    it.add(1, "aaaaaaaab", "c")
    it.add(2, "d", "d", "d", "d", "d", "d")
    it.finish()
    first, second = it.pooler.batches[:2]
    assert first == [("aaaaaaaab", 0, 2), ("d", 0, 1), ("d", 0, 1)]
    assert second[0] == ("aaaaaaaab", 2, 2)
    assert list(it.vectors(1)[0]) == close_to(2, 1, 0, 0), "of its last three tokens"
    assert list(it.vectors(1)[1]) == close_to(0, 0, 1, 0)
    assert len(it.vectors(2)) == 6


def test_only_one_text_is_read_in_spans_at_a_time() -> None:
    it = bench("last", causal=True, rows=4, longest=16)
    it.add(1, "aaaaaa")
    it.add(2, "bbbbbb")
    it.finish()
    texts = [{text for text, _, _ in batch} for batch in it.pooler.batches]
    assert all(len(each) == 1 for each in texts)
    assert it.end(1).finish == it.end(2).finish == "stop"


def test_vectors_come_as_they_are_computed() -> None:
    it = bench(slots=3)
    it.add(1, *"abcd")
    it.step()
    (delta,) = it.news
    assert (len(delta.vectors), delta.last) == (2, False)
    it.step()
    assert len(it.vectors(1)) == 4
    assert it.end(1).finish == "stop"


def test_requests_are_named_before_they_are_computed_for_the_first_time() -> None:
    computed: list[int] = []
    it: Bench = bench(slots=3, before_compute=lambda: computed.append(len(it.begun)))
    it.add(1, *"abc")
    it.add(2, "d")
    it.finish()
    assert batches(it) == [["a", "d"], ["b", "c"]]
    assert it.begun == [(1, 2)]
    assert computed == [1, 1]


def test_running_and_waiting_are_counted_apart() -> None:
    it = bench(slots=3)
    it.add(1, *"abc")
    it.add(2, "dd")
    assert (it.embedder.running, it.embedder.waiting, len(it.embedder)) == (0, 2, 2)
    it.step()
    assert (it.embedder.running, it.embedder.waiting, len(it.embedder)) == (1, 0, 1)


# Reading.


def test_the_parent_knows_whose_texts_are_being_tokenised() -> None:
    it = bench()
    it.add(7, "a", "b")
    it.step()
    assert it.read == [(7,), ()]


def test_a_large_request_is_tokenised_beside_the_loop_text_by_text() -> None:
    large = 100 * 1024
    it = bench(longest=large, rows=large, held=True)
    it.add(1, *["a" * large] * 2)
    assert not it.embedder.has_work
    for read in (1, 2):
        it.step()
        it.tokenizers.turn()
        assert len(it.pooler.tokenized) == read
        assert it.pooler.batches == [], "it is computed when all of its texts are known to be good"
    assert not it.embedder.has_work
    it.tokenizers.turn()
    assert it.embedder.has_work
    it.finish()
    assert len(it.vectors(1)) == 2
    assert it.read == [(1,), ()] * 3


def test_a_wrong_text_of_a_large_request_ends_it() -> None:
    it = bench(longest=9999, held=True)
    it.add(1, "a" * 9000, "deep", "a" * 9000)
    it.tokenizers.turn()
    it.tokenizers.turn()
    it.step()
    assert it.failure(1).message == "input[1]: too deep"
    assert len(it.pooler.tokenized) == 1
    assert len(it.embedder) == 0


def test_a_short_request_does_not_wait_until_long_ones_are_tokenised() -> None:
    it = bench(longest=9999, held=True)
    it.add(1, *["a" * 9000] * 4)
    it.add(3, "b")
    it.step()
    assert batches(it) == [["b"]]
    assert it.end(3).finish == "stop"
    assert not it.embedder.has_work


def test_many_short_requests_are_tokenised_between_several_batches() -> None:
    it = bench(longest=4096, rows=4096, slots=99, most=99)
    for id in range(8):
        it.add(id, "a" * 4000)
    for read in (5, 8):
        it.step()
        assert len(it.pooler.tokenized) == read
    it.finish()


def test_a_query_counts_with_each_document() -> None:
    it = bench("rank", longest=9999, rows=9999, held=True)
    it.add(1, *["a"] * 4, query="q" * 2000)
    assert not it.embedder.has_work
    for _ in range(5):
        it.tokenizers.turn()
    it.finish()
    assert len(it.vectors(1)) == 4


def test_a_dropped_request_is_tokenised_no_further() -> None:
    it = bench(longest=9999, held=True)
    it.add(1, *["a" * 9000] * 4)
    it.add(2, "b" * 9000)
    it.tokenizers.turn()
    it.embedder.drop(1)
    it.tokenizers.turn()
    it.tokenizers.turn()
    it.finish()
    assert [text[0] for text in it.pooler.tokenized] == ["a", "b"]


# Ends.


def test_a_request_that_was_dropped_is_not_computed_any_more() -> None:
    it = bench(slots=3)
    it.add(1, *"abcd")
    it.add(2, "d")
    it.step()
    it.embedder.drop(1)
    assert 1 not in it.embedder
    it.finish()
    assert "c" not in batches(it)[-1]
    assert it.end(2).finish == "stop"


def test_a_dropped_text_that_was_read_in_spans_leaves_its_cells() -> None:
    it = bench("last", causal=True, rows=4, longest=16)
    it.add(1, "aaaaaaaa")
    it.step()
    it.embedder.drop(1)
    assert all(not held for held in it.pooler.held.values())
    it.add(2, "bbbbbbbb")
    it.finish()
    assert list(it.vectors(2)[0]) == close_to(0, 1, 0, 0)


def test_the_requests_whose_deadline_is_over_are_known() -> None:
    it = bench()
    it.add(1, "a", deadline=5.0)
    it.add(2, "a")
    assert it.embedder.deadlines == [5.0, None]
    assert (it.embedder.late(4.9), it.embedder.late(5.0)) == ([], [1])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_under_a_random_load_every_request_gets_its_vectors(seed: int, causal: bool) -> None:
    chance = random.Random(seed)
    it = bench(causal=causal, rows=8, longest=20, slots=4, most=100)
    wanted: dict[int, list[str]] = {}
    for id in range(60):
        texts = [
            "".join(chance.choices("abcd", k=chance.randint(1, 20)))
            for _ in range(chance.randint(1, 6))
        ]
        assert it.add(id, *texts) is None
        wanted[id] = texts
        if chance.random() < 0.2:
            gone = chance.choice([each for each in wanted if each in it.embedder])
            it.embedder.drop(gone)
            del wanted[gone]
        it.step(chance.choice([None, 1, 3, 8]))
    it.finish()
    for id, texts in wanted.items():
        for text, vector in zip(texts, it.vectors(id), strict=True):
            assert list(vector) == close_to(*(text.count(letter) for letter in "abcd"))
