"""Checks a chat template that is set in place of the model's own.

`template` renders it; finding the file is the caller's business.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from gguf_worker.chat.template import ChatTemplate
from gguf_worker.chat.time_limit import at_most
from gguf_worker.errors import ConfigError, WorkerError, is_lasting

MOST_BYTES = 1 << 20

_LONGEST_SECONDS = 5.0
_QUESTION = "How deep is the sea?"


def read_template(path: Path, *, bos: str, eos: str) -> str:
    """Return the text of the template in `path`, after rendering a chat with it as a test.

    `bos` and `eos` are the texts of these tokens. Raises ConfigError, with the line that is wrong.
    """
    text, template = _compiled(path, bos, eos)
    template.prepare()  # has a limit of its own
    try:
        with at_most(_LONGEST_SECONDS):
            written = template.render([{"role": "user", "content": _QUESTION}], {}).text
    except TimeoutError as exc:
        raise _refused(
            path, f"takes longer than {_LONGEST_SECONDS:.0f} seconds for a question"
        ) from exc
    except WorkerError as exc:
        where = _line(exc.__cause__.__traceback__ if exc.__cause__ else None)
        raise _refused(path, f"cannot write a chat of one question down{where}: {exc}") from exc
    if _QUESTION not in written:
        raise _refused(path, "leaves the question out of a chat")
    return text


def check_text(path: Path) -> None:
    """Check all that can be checked before the model is known.

    Raises ConfigError as `read_template` does.
    """
    _compiled(path, "", "")


def _compiled(path: Path, bos: str, eos: str) -> tuple[str, ChatTemplate]:
    text = _text(path)
    template = ChatTemplate(text, bos, eos)
    if template.fault is not None:
        raise _refused(path, f"does not compile: {template.fault}")
    return text, template


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise _refused(path, f"is longer than {MOST_BYTES:,} bytes")
        return data.decode("utf-8-sig")
    except OSError as exc:
        raise _refused(
            path, f"cannot be read: {exc.strerror or exc}", permanent=is_lasting(exc)
        ) from exc
    except UnicodeDecodeError as exc:
        raise _refused(path, f"is no text (byte {exc.start} is not UTF-8)") from exc


def _line(trace: TracebackType | None) -> str:
    """Return the template's line that failed, for a message.

    jinja2 makes its frames look like the template's own lines.
    """
    found = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            found = f" (line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _refused(path: Path, why: str, *, permanent: bool = True) -> ConfigError:
    return ConfigError(
        f"CHAT_TEMPLATE: {path} {why}. Correct it, or unset CHAT_TEMPLATE to use the model's own.",
        param="CHAT_TEMPLATE",
        permanent=permanent,
    )
