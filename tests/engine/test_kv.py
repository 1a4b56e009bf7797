"""The accounting of the KV cache."""

from __future__ import annotations

import pytest

from gguf_worker.engine.kv import KvCells


def test_ids_are_handed_out_lowest_first_and_again_after_a_release() -> None:
    kv = KvCells(10, 3)
    assert [kv.claim() for _ in range(3)] == [0, 1, 2]
    kv.release(2)
    kv.release(0)
    assert [kv.claim(), kv.claim()] == [0, 2]


def test_no_id_can_be_claimed_when_all_are_taken() -> None:
    kv = KvCells(10, 1)
    assert kv.can_claim()
    kv.claim()
    assert not kv.can_claim()
    assert kv.free_slots == 0


def test_cells_are_counted_per_id_and_in_all() -> None:
    kv = KvCells(10, 2)
    first, second = kv.claim(), kv.claim()
    kv.take(first, 3)
    kv.take(second, 4)
    kv.take(first, 1)
    assert (kv.held(first), kv.held(second), kv.used, kv.free) == (4, 4, 8, 2)
    kv.check()


def test_a_release_gives_every_cell_of_the_id_back() -> None:
    kv = KvCells(10, 2)
    first, second = kv.claim(), kv.claim()
    kv.take(first, 3)
    kv.take(second, 4)
    kv.release(first)
    assert (kv.used, kv.free, kv.free_slots) == (4, 6, 1)
    assert kv.claim() == first
    assert kv.held(first) == 0
    kv.check()


def test_cells_that_are_not_there_cannot_be_taken() -> None:
    kv = KvCells(10, 1)
    slot = kv.claim()
    kv.take(slot, 10)
    with pytest.raises(AssertionError, match="not there"):
        kv.take(slot, 1)


def test_an_id_that_is_free_cannot_be_released() -> None:
    kv = KvCells(10, 2)
    slot = kv.claim()
    kv.release(slot)
    with pytest.raises(KeyError):
        kv.release(slot)
