"""The tree of errors: which of the system's own errors end a start for good."""

from __future__ import annotations

import errno
import os
import re

import pytest

from gguf_worker.errors import (
    DiskFull,
    ModelUnavailable,
    as_start_errors,
    is_lasting,
    raise_passing,
    start_error,
)

LASTING = {"ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "EACCES", "EPERM"}
FULL = {"ENOSPC", "EDQUOT", "EFBIG"}
OTHERS = sorted(set(errno.errorcode.values()) - LASTING - FULL)


def refused(name: str, path: str | None = None) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize("name", sorted(LASTING))
def test_a_path_that_is_wrong_or_not_allowed_is_so_on_every_host(name: str) -> None:
    assert is_lasting(refused(name))
    raise_passing(refused(name))


@pytest.mark.parametrize("name", sorted(LASTING))
def test_what_is_lasting_ends_a_start_for_good_unless_a_file_may_just_be_gone(name: str) -> None:
    error = start_error(refused(name), "reading the model")
    assert isinstance(error, ModelUnavailable)
    assert error.permanent is (name != "ENOENT")


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_error_of_the_system_may_pass(name: str) -> None:
    assert not is_lasting(refused(name))
    assert not start_error(refused(name), "reading the model").permanent
    with pytest.raises(OSError, match=re.escape(os.strerror(getattr(errno, name)))):
        raise_passing(refused(name))


@pytest.mark.parametrize("name", sorted(FULL))
def test_a_disk_that_takes_no_more_may_have_room_later(name: str) -> None:
    error = start_error(refused(name), "writing the model")
    assert isinstance(error, DiskFull)
    assert not error.permanent


def test_the_message_says_what_was_done_why_it_failed_and_where() -> None:
    with (
        pytest.raises(ModelUnavailable, match=r"^reading x failed: Stale .* \(/v/x\)\. ") as raised,
        as_start_errors("reading x"),
    ):
        raise refused("ESTALE", "/v/x")
    assert isinstance(raised.value.__cause__, OSError)


def test_errors_that_have_a_meaning_already_keep_it() -> None:
    with pytest.raises(DiskFull, match=r"^no room$"), as_start_errors("reading x"):
        raise DiskFull("no room")
