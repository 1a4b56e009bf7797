"""The table of hostile kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from random import Random

from tests.soak import bodies, grammars, samplers
from tests.soak.attempts import Attempt
from tests.soak.bodies import Make
from tests.soak.texts import GROUPS, Target, text_attempt


def _text(names: Sequence[str], target: Target, chance: Random) -> Attempt:
    return text_attempt(chance.choice(names), target, chance)


OTHERS: Mapping[str, Make] = {
    "giant bodies": bodies.giant,
    "many messages": bodies.many_messages,
    "many parts": bodies.many_parts,
    "wide bodies": bodies.wide,
    "deep bodies": bodies.deep,
    "template options": bodies.template_options,
    "broken bodies": bodies.broken,
    "odd heads": bodies.odd_heads,
    "slow bodies": bodies.slow,
    "drops": bodies.dropped,
    "DRY breakers": samplers.many_breakers,
    "DRY breakers, n=16": samplers.many_breakers_of_many_answers,
    "DRY, repeating prompt": samplers.repeating_dry,
    "sampler: all edges": samplers.edges,
    "sampler: one edge": samplers.one_edge,
    "sampler: whole vocabulary": samplers.whole_vocabulary,
    "biases": samplers.biases,
    "penalties": samplers.penalties,
    "stop strings": samplers.stops,
    "token rules": samplers.token_rules,
    "scored prompts": samplers.scored_prompts,
    "n=16": samplers.many_answers,
    "likely ones": samplers.likely_ones,
    "many prompts": samplers.many_prompts,
    "lengths": samplers.lengths,
    "token ids": samplers.token_ids,
    "detokenize": samplers.detokenized,
    "regexes": grammars.regexes,
    "lark grammars": grammars.lark_grammars,
    "GBNF grammars": grammars.gbnf_grammars,
    "large grammars": grammars.large_grammars,
    "choices": grammars.choices,
    "schemas": grammars.schemas,
    "schemas, n=16": grammars.schemas_of_many_answers,
    "fresh schemas": grammars.fresh_schemas,
    "tools": grammars.tools,
    "formats at once": grammars.formats_at_once,
}
"""All but the texts."""

KINDS: Mapping[str, Make] = {
    **OTHERS,
    **{f"text: {group}": partial(_text, names) for group, names in GROUPS.items()},
}
