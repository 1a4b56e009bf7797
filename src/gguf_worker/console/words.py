"""Numbers, times and tables as people like to read them. Pure text work."""

from __future__ import annotations

from collections.abc import Sequence

_AGES = (("day", 86400), ("hour", 3600), ("minute", 60))


def size(count: float) -> str:
    """Bytes in decimal units, as the Hub and disks' makers count them."""
    for unit, scale, digits in (("TB", 1e12, 2), ("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 0)):
        if count >= scale * 0.9995:
            return f"{count / scale:.{digits}f} {unit}"
    return f"{count:.0f} B"


def count(number: int) -> str:
    """A large number in short: 8.03 B parameters."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= scale * 0.9995:
            return f"{number / scale:.3g} {unit}"
    return str(number)


def several(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def age(seconds: float) -> str:
    """How long ago something was."""
    for unit, length in _AGES:
        if seconds >= length:
            return f"{several(int(seconds // length), unit)} ago"
    return "just now"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns with three blanks between them."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def plain(text: str) -> str:
    """A stranger's text, without what a terminal would obey."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def plain_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(plain(line) for line in text.split("\n"))
