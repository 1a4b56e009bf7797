"""Requests whose sampler costs much, or is at the edge of what it allows."""

from __future__ import annotations

from random import Random
from typing import Any

from gguf_worker.api.reading import SamplerFields
from tests.soak.attempts import Attempt, posted
from tests.soak.texts import Target

_ROUTE = "/v1/completions"
_PROSE = "The sea was calm, and the letter lay on the table beside the window. "


def generate(label: str, **fields: Any) -> Attempt:
    """Return a completion of some tokens with these fields."""
    body = {"prompt": _PROSE * 4, "max_tokens": 16, "ignore_eos": True, **fields}
    return posted(_ROUTE, body, label)


def many_breakers(target: Target, chance: Random) -> Attempt:
    """DRY with sixteen breakers, none of which another request has."""
    breakers = [f"{chance.choice('aeiou ')}{number:x}" for number in chance.sample(range(9999), 16)]
    return generate("DRY with 16 breakers", dry_multiplier=1, dry_sequence_breakers=breakers)


def many_breakers_of_many_answers(target: Target, chance: Random) -> Attempt:
    breakers = [chr(0x4E00 + number) * 40 for number in chance.sample(range(9999), 16)]
    return generate(
        "DRY with 16 breakers, n=16", dry_multiplier=1, dry_sequence_breakers=breakers, n=16
    )


def repeating_dry(target: Target, chance: Random) -> Attempt:
    """DRY over a prompt that repeats itself as often as fits."""
    prompt = "ab " * (target.context // 3)
    fields: dict[str, Any] = {"dry_multiplier": 5, "dry_penalty_last_n": -1, "dry_base": 100}
    return generate("DRY over a repeating prompt", prompt=prompt, dry_allowed_length=0, **fields)


def edges(target: Target, chance: Random) -> Attempt:
    """All fields of the sampler, each at its least, its most, or just outside."""
    fields = SamplerFields.model_json_schema()["properties"]
    sent = {}
    for name, schema in fields.items():
        for each in schema.get("anyOf", ()):
            if each.get("type") in ("number", "integer") and "maximum" in each:
                sent[name] = chance.choice((each["minimum"], each["maximum"]))
    if chance.random() < 0.2:
        name = chance.choice(sorted(sent))
        sent[name] += chance.choice((-1, 1)) * 1000
    return generate("edges of all samplers", **sent)


def one_edge(target: Target, chance: Random) -> Attempt:
    """One field of the sampler at its least or its most."""
    fields = SamplerFields.model_json_schema()["properties"]
    bounded = {
        name: each
        for name, schema in fields.items()
        for each in schema.get("anyOf", ())
        if each.get("type") in ("number", "integer") and "maximum" in each
    }
    name = chance.choice(sorted(bounded))
    value = bounded[name][chance.choice(("minimum", "maximum"))]
    return generate(f"{name}={value}", **{name: value})


def whole_vocabulary(target: Target, chance: Random) -> Attempt:
    """Samplers that would look at the whole vocabulary."""
    fields = chance.choice(
        (
            {"mirostat": 1, "mirostat_tau": 100},
            {"mirostat": 2, "mirostat_eta": 10},
            {"typical_p": 0.5},
            {"xtc_probability": 1, "xtc_threshold": 0},
            {"dynatemp_range": 10, "dynatemp_exponent": 100},
            {"top_p": 0.999, "min_p": 0},
        )
    )
    return generate(f"top_k=0, n=16, {next(iter(fields))}", top_k=0, n=16, **fields)


def biases(target: Target, chance: Random) -> Attempt:
    count = chance.choice((1024, 1025, 100_000))
    bias = {str(token): chance.choice((-100, 100)) for token in range(count)}
    return generate(f"{count} biases", logit_bias=bias)


def penalties(target: Target, chance: Random) -> Attempt:
    """Penalties over all tokens of a long prompt."""
    prompt = "sea " * (target.context // 2)
    return generate(
        "penalties", prompt=prompt, repeat_penalty=10, repeat_last_n=-1, presence_penalty=-10
    )


def stops(target: Target, chance: Random) -> Attempt:
    count = chance.choice((64, 65, 100_000))
    stop = [f"{number:04d}" + "a" * 252 for number in range(count)]
    return generate(f"{count} stop strings", stop=stop, max_tokens=32)


def token_rules(target: Target, chance: Random) -> Attempt:
    """Rules about tokens, each with as many as it may have, or one more."""
    words = [f"{number:03d}" + "a " * 126 for number in range(chance.choice((64, 65)))]
    fields: dict[str, Any] = chance.choice(
        (
            {"bad_words": words},
            {"allowed_token_ids": list(range(chance.choice((100, 2**16))))},
            {"stop_token_ids": [2**31 - 1] * 1024, "min_tokens": chance.choice((3, 2**31 - 1))},
            {
                "truncate_prompt_tokens": chance.choice((1, -1, 2**31 - 1)),
                "prompt": "sea " * 50_000,
            },
        )
    )
    return generate(f"rules: {next(iter(fields))}", **{"ignore_eos": False, **fields})


def scored_prompts(target: Target, chance: Random) -> Attempt:
    """Prompts all of whose tokens are scored, as many and as long as may be."""
    count = chance.choice((1, 16))
    prompt = [f"{number} " + _PROSE * (target.context // 100) for number in range(count)]
    fields = {"echo": True, "logprobs": chance.choice((0, 20))}
    return generate(f"{count} scored prompts", prompt=prompt, **{"max_tokens": 0, **fields})


def many_answers(target: Target, chance: Random) -> Attempt:
    return generate(
        "n=16 with logprobs", n=16, logprobs=5, seed=2**63 if chance.random() < 0.2 else 7
    )


def likely_ones(target: Target, chance: Random) -> Attempt:
    body = {
        "messages": [{"role": "user", "content": _PROSE}],
        "logprobs": True,
        "top_logprobs": 20,
        "max_tokens": 16,
        "stream": chance.random() < 0.5,
    }
    return posted("/v1/chat/completions", body, "20 likely ones of each token")


def many_prompts(target: Target, chance: Random) -> Attempt:
    count = chance.choice((16, 128, 129))
    prompts = [f"{number} {_PROSE}" for number in range(count)]
    return generate(f"{count} prompts", prompt=prompts, max_tokens=2)


def lengths(target: Target, chance: Random) -> Attempt:
    """Lengths of the answer at the edges of what a number may be."""
    value = chance.choice((-1, 0, 2**31 - 1, 2**31, 2**63, 10**40, 1.5, "9"))
    return generate(f"max_tokens={value!r}", max_tokens=value, stop=["e", "a", " "])


def token_ids(target: Target, chance: Random) -> Attempt:
    """Prompts of token ids: each legal one, unknown ones, and very many."""
    prompt = chance.choice(
        (
            [chance.randrange(500) for _ in range(target.context - 20)],
            [2**31 - 1] * 100,
            [-1],
            [0] * 1_000_000,
            [[0] * 10] * 200,
        )
    )
    return generate("token ids", prompt=prompt, max_tokens=4)


def detokenized(target: Target, chance: Random) -> Attempt:
    count = chance.choice((1000, 200_000, 1_000_000))
    tokens = [chance.randrange(500)] * count
    return posted("/detokenize", {"tokens": tokens}, f"{count} tokens to /detokenize")
