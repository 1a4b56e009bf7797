"""Brings a chat into the form that a template accepts, without losing a text of it.

Templates refuse system messages in places that they weren't trained for, two turns of one role in a
row, an assistant's greeting; some drop them silently. `MessageRules` say what one template takes;
`normalised` joins, marks and folds messages until they keep to them, in the order of their texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

TemplateMessage = Mapping[str, Any]
WriteMessages = Callable[[Sequence[TemplateMessage]], str]
"""Returns the template's text for a chat; "" if it refuses it."""


@dataclass(frozen=True, slots=True)
class MessageRules:
    """What a template takes; by default everything, so that no message is changed."""

    opening_systems: Literal["any", "one", "none"] = "any"
    """System messages at a chat's beginning."""
    later_systems: bool = True
    """System messages behind others."""
    repeated_users: bool = True
    repeated_assistants: bool = True
    """Several turns of one role in a row."""
    assistant_first: bool = True
    system_alone: bool = True
    """A chat of system messages alone."""
    system_before_answers: bool = True
    """A system message at the beginning of a chat whose last turn is not the user's."""
    calls_apart: bool = False
    """Calls and their results don't count where user and assistant have to alternate."""
    parts: bool = False
    """Content has to be a list of typed parts; a text would be dropped."""

    @property
    def strict(self) -> MessageRules:
        """The rules of a template that takes one system message, and turns that alternate."""
        return MessageRules(
            *("one", False, False, False, False, False),
            system_before_answers=self.system_before_answers,
            calls_apart=self.calls_apart,
            parts=self.parts,
        )


def rules_of(write: WriteMessages, *, calls: Sequence[TemplateMessage] = ()) -> MessageRules:
    """Return the rules of a template, found with small chats.

    `calls`: a call and its result, if the template writes them. A template that writes not even a
    question, an answer and a question again has no rules to be found, and gets the default.
    """
    for parts in (False, True):
        trial = _Trial(write, parts)
        if trial.takes("user", "assistant", "user"):
            break
    else:
        return MessageRules()
    if trial.takes_all():
        return MessageRules(parts=parts)
    opening: Literal["any", "one", "none"] = "none"
    if trial.takes("system", "user"):
        opening = "any" if trial.takes("system", "system", "user") else "one"
    later = opening != "none" and all(
        trial.takes("system", *roles)
        for roles in (
            ("user", "assistant", "system", "user"),
            ("user", "system", "assistant", "user"),
            ("user", "system"),
        )
    )
    repeated_users = trial.takes("user", "user", "assistant", "user")
    return MessageRules(
        opening_systems=opening,
        later_systems=later,
        repeated_users=repeated_users,
        repeated_assistants=trial.takes("user", "assistant", "assistant", "user"),
        assistant_first=trial.takes("assistant", "user"),
        system_alone=opening != "none" and trial.takes("system"),
        system_before_answers=opening == "none" or trial.takes("system", "user", "assistant"),
        calls_apart=bool(calls) and not repeated_users and not trial.takes_after(calls, "user"),
        parts=parts,
    )


class _Trial:
    """Tries whether a template writes all texts of a chat."""

    def __init__(self, write: WriteMessages, parts: bool) -> None:
        self._write = write
        self._parts = parts

    def takes(self, *roles: str) -> bool:
        return self._writes([], roles)

    def takes_after(self, calls: Sequence[TemplateMessage], *roles: str) -> bool:
        return self._writes([{"role": "user", "content": "A"}, *calls], roles)

    def takes_all(self) -> bool:
        """Tell by few chats if the template takes everything in every order."""
        return (
            self.takes(
                *("system", "system", "user", "user", "assistant", "assistant"),
                *("system", "user", "system", "assistant", "user", "system"),
            )
            and self.takes("assistant", "user")
            and self.takes("system", "user", "assistant")
            and self.takes("system")
        )

    def _writes(self, before: Sequence[TemplateMessage], roles: Sequence[str]) -> bool:
        words = [f"probe{index}w" for index in range(len(roles))]
        said = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
        chat = [*before, *said]
        text = self._write([_in_parts(each) for each in chat] if self._parts else chat)
        return all(word in text for word in words)


def normalised(
    messages: Sequence[TemplateMessage], rules: MessageRules
) -> Sequence[TemplateMessage]:
    """Return `messages` as the rules want them: themselves, where they keep to them."""
    if rules == _NO_RULES:
        return messages
    turns = _with_systems_placed(messages, rules)
    turns = _alternating(turns, rules)
    return [_in_parts(each) for each in turns] if rules.parts else turns


_NO_RULES = MessageRules()


def moves_systems(messages: Sequence[TemplateMessage], rules: MessageRules) -> bool:
    """Tell if `normalised` makes a later system message a part of a user's turn."""
    return not rules.later_systems and any(map(_is_system, _opening(messages)[1]))


def _with_systems_placed(
    messages: Sequence[TemplateMessage], rules: MessageRules
) -> list[TemplateMessage]:
    opening, others = _opening(messages)
    turns = list(opening)
    if len(opening) > 1 and rules.opening_systems != "any":
        turns = [_joined(opening)]
    pending: list[TemplateMessage] = []  # system messages for the user's next turn
    if opening and not _takes_opening(others, rules):
        turns, pending = [], [{"role": "user", "content": _joined(opening)["content"]}]
    for message in others:
        if _is_system(message) and not rules.later_systems:
            pending.append(_marked(message))
        elif pending and message.get("role") == "user":
            turns.append(_joined([*pending, message]))
            pending = []
        else:
            _place(pending, turns)
            turns.append(message)
            pending = []
    _place(pending, turns)
    return turns


def _takes_opening(others: Sequence[TemplateMessage], rules: MessageRules) -> bool:
    """Tell if a system message may stand before `others`."""
    if rules.opening_systems == "none" or not others:
        return rules.opening_systems != "none" and rules.system_alone
    return rules.system_before_answers or others[-1].get("role") == "user"


def _place(pending: Sequence[TemplateMessage], turns: list[TemplateMessage]) -> None:
    """Add `pending` to the user's turn that is the last one, or as a turn of its own."""
    if not pending:
        return
    before = [turns.pop()] if turns and turns[-1].get("role") == "user" else []
    turns.append(_joined([*before, *pending]))


def _marked(system: TemplateMessage) -> TemplateMessage:
    """Return a system message as a part of a user's turn that can be told from the rest."""
    content = system.get("content")
    if isinstance(content, list):
        content = [_text_part("<system>"), *content, _text_part("</system>")]
    else:
        content = f"<system>\n{content}\n</system>"
    return {"role": "user", "content": content}


def _alternating(messages: Sequence[TemplateMessage], rules: MessageRules) -> list[TemplateMessage]:
    """Return `messages` with turns of one role joined, or parted by an empty turn of the other."""
    turns: list[list[TemplateMessage]] = []
    last = None  # the role that counted last
    begun = False  # by a user
    for message in messages:
        role = message.get("role")
        if role not in ("user", "assistant"):
            turns.append([message])
            last = last if rules.calls_apart or role != "tool" else None
            continue
        opens = role == "assistant" and not (begun or rules.assistant_first)
        repeats = role == last and not _may_repeat(role, rules)
        begun = True
        if repeats and _joinable(turns[-1][-1], message):
            turns[-1].append(message)
            continue
        if opens or repeats:
            last = "assistant" if role == "user" else "user"
            turns.append([{"role": last, "content": ""}])
        turns.append([message])
        last = last if rules.calls_apart and message.get("tool_calls") else role
    return [_joined(each) if len(each) > 1 else each[0] for each in turns]


def _may_repeat(role: str, rules: MessageRules) -> bool:
    return rules.repeated_users if role == "user" else rules.repeated_assistants


def _joinable(one: TemplateMessage, other: TemplateMessage) -> bool:
    calls = one.get("tool_calls") or other.get("tool_calls")
    return one.get("role") == other.get("role") and not calls


def _joined(messages: Sequence[TemplateMessage]) -> TemplateMessage:
    """Return one message with the contents of all, and their thoughts."""
    one = {name: value for each in messages for name, value in each.items()}
    one["content"] = _content([each.get("content") for each in messages])
    thoughts = [each["reasoning_content"] for each in messages if each.get("reasoning_content")]
    if thoughts:
        one["reasoning_content"] = "\n\n".join(thoughts)
    return one


def _content(contents: Sequence[Any]) -> Any:
    said = [each for each in contents if each]
    if all(isinstance(each, str) for each in said):
        return "\n\n".join(said)
    return [part for each in said for part in _parts(each)]


def _in_parts(message: TemplateMessage) -> TemplateMessage:
    content = message.get("content")
    return {**message, "content": _parts(content)} if isinstance(content, str) else message


def _parts(content: Any) -> Sequence[Any]:
    return [_text_part(content)] if isinstance(content, str) else content


def _text_part(text: str) -> Mapping[str, Any]:
    return {"type": "text", "text": text}


def _opening(
    messages: Sequence[TemplateMessage],
) -> tuple[Sequence[TemplateMessage], Sequence[TemplateMessage]]:
    opening = list(takewhile(_is_system, messages))
    return opening, messages[len(opening) :]


def _is_system(message: TemplateMessage) -> bool:
    return message.get("role") in ("system", "developer")
