"""Fetch a compiled wheel of llama-cpp-python that was published, in place of compiling it.

    python3 published_wheel.py LIST KEY FOLDER

LIST has a line `KEY SHA256 ADDRESS` for each published wheel. compile.sh makes the key of all that
a wheel is made from, so one of the same key is the same code, whoever compiled it.

The exit status is 0 if the wheel is in FOLDER, and 3 if it has to be compiled: nobody has published
it, or it cannot be reached. Anything else ends the build: the list is not well formed, or the bytes
are not those that were published. This runs in the base of the image, with its Python alone.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

TO_COMPILE = 3
TRIES = 3
PAUSE = 2.0
SILENCE = 60.0
"""Seconds without a byte after which a try has failed."""

_LINE = re.compile(r"(\d+-\d+) ([0-9a-f]{64}) (https://\S+/([\w.+-]+\.whl))")


class Published(NamedTuple):
    """A wheel that can be had. `name` is the file's: pip reads version and platform from it."""

    sha256: str
    address: str
    name: str


class Wrong(Exception):
    """The list, or what its address gave, is not as it should be."""


class Unreachable(Exception):
    """The address gives nothing, or not all."""


def published(text: str) -> dict[str, Published]:
    """Return the wheels of a list by their keys; Wrong if a line is not well formed."""
    found: dict[str, Published] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise Wrong(f"line {number} is not KEY SHA256 https://.../NAME.whl: {line}")
        key, sha256, address, name = parts.groups()
        if key in found:
            raise Wrong(f"line {number} has the key {key} for the second time")
        found[key] = Published(sha256, address, name)
    return found


def fetch(wheel: Published, folder: Path, pause: float = PAUSE) -> None:
    """Put the wheel into `folder`. Raises Unreachable, and Wrong for other bytes than published."""
    part = folder / f"{wheel.name}.part"
    for left in reversed(range(TRIES)):
        try:
            digest = _download(wheel.address, part)
            break
        except (OSError, http.client.HTTPException) as error:
            part.unlink(missing_ok=True)
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or not left:
                raise Unreachable(str(error)) from error
        time.sleep(pause)
    if digest != wheel.sha256:
        part.unlink()
        raise Wrong(f"{wheel.address} has the SHA-256 {digest}, and {wheel.sha256} was published")
    part.rename(folder / wheel.name)


def _download(address: str, part: Path) -> str:
    """Write what the address gives to `part`, and return its SHA-256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(address, timeout=SILENCE) as answer, part.open("wb") as file:
        while piece := answer.read(1 << 20):
            digest.update(piece)
            file.write(piece)
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
    return digest.hexdigest()


def main(wheels: str, key: str, folder: str) -> int:
    try:
        wheel = published(Path(wheels).read_text(encoding="utf-8")).get(key)
        if wheel is None:
            print(f"no wheel of the key {key} was published: docs/image.md says how to do that")
            return TO_COMPILE
        print(f"fetching the wheel of the key {key}: {wheel.address}")
        fetch(wheel, Path(folder))
    except Unreachable as error:
        print(f"the published wheel cannot be reached ({error})")
        return TO_COMPILE
    except Wrong as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"its SHA-256 is the published one, {wheel.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
