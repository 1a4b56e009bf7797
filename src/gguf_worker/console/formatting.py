"""Numbers, times and tables as texts for people."""

from __future__ import annotations

from collections.abc import Sequence

_AGE_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def size(count: float) -> str:
    """Write a number of bytes in decimal units, as the Hub and the makers of disks do."""
    for unit, scale, digits in (("TB", 1e12, 2), ("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 0)):
        if count >= scale * 0.9995:
            return f"{count / scale:.{digits}f} {unit}"
    return f"{count:.0f} B"


def count(number: int) -> str:
    """Write a large number in short, such as 8.03 B for parameters."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= scale * 0.9995:
            return f"{number / scale:.3g} {unit}"
    return str(number)


def several(number: int, what: str) -> str:
    """Write a number of things, with a plural s unless the number is one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def age(seconds: float) -> str:
    """Write how long ago something was."""
    for unit, length in _AGE_UNITS:
        if seconds >= length:
            return f"{several(int(seconds // length), unit)} ago"
    return "just now"


def duration(seconds: float) -> str:
    """Write a duration in two units at most."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table, with three blanks between its columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def plain(text: str) -> str:
    """Replace control characters, which a terminal would obey, in an untrusted text."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def plain_lines(text: str) -> str:
    """Replace control characters in a text of several lines."""
    return "\n".join(plain(line) for line in text.split("\n"))
