"""Threads with stacks of their own size, also when several begin at the same time."""

from __future__ import annotations

import threading

import pytest

from gguf_worker.engine.stacks import start_with_stack


def test_a_stacks_size_is_for_one_thread_only() -> None:
    usual = threading.stack_size()
    sizes: list[int] = []
    both = threading.Barrier(8, timeout=30.0)

    class Noted(threading.Thread):
        def start(self) -> None:
            sizes.append(threading.stack_size())
            super().start()

    def begin(megabytes: int) -> None:
        both.wait()
        thread = Noted(target=lambda: None)
        start_with_stack(thread, megabytes << 20)
        thread.join()

    threads = [threading.Thread(target=begin, args=(number + 1,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sizes) == [(number + 1) << 20 for number in range(8)]
    assert threading.stack_size() == usual


def test_without_memory_for_it_the_usual_size_is_back() -> None:
    usual = threading.stack_size()
    with pytest.raises(RuntimeError):
        start_with_stack(threading.Thread(target=lambda: None), 1 << 50)
    assert threading.stack_size() == usual
