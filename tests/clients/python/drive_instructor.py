"""Instructor, over the openai package: a value by a call, and by a schema."""

import instructor
from drive import (
    BY_CALL,
    DESCRIPTION,
    GREETING,
    KEY,
    MODEL,
    OPENAI,
    PERSON_TOOL,
    drive,
    refusal,
    says,
)
from openai import OpenAI
from pydantic import create_model

Person = create_model(PERSON_TOOL, __doc__="A person.", name=(str, ...), age=(int, ...))


def client(mode=instructor.Mode.TOOLS, key=KEY):
    api = OpenAI(base_url=OPENAI, api_key=key, max_retries=0)
    return instructor.from_openai(api, mode=mode).chat.completions


def text():
    answer = client().create(model=MODEL, messages=says(GREETING), response_model=None)
    return {"text": answer.choices[0].message.content, "usage": answer.usage.total_tokens}


def value(mode, question):
    ask = client(mode)
    return ask.create(model=MODEL, messages=says(question), response_model=Person).model_dump()


def structured():
    return {"value": value(instructor.Mode.TOOLS, BY_CALL)}


def by_schema():
    return {"value": value(instructor.Mode.JSON_SCHEMA, DESCRIPTION)}


def in_parts():
    ask = client(instructor.Mode.JSON_SCHEMA)
    parts = list(ask.create_partial(model=MODEL, messages=says(DESCRIPTION), response_model=Person))
    return {"value": parts[-1].model_dump()}


def errors():
    def ask(key=KEY, **more):
        usual = {"model": MODEL, "messages": says("Hi"), "response_model": Person}
        return client(key=key).create(**{**usual, "max_retries": 0, **more})

    return {
        "wrong": refusal(lambda: ask(temperature=-3)),
        "unknown": refusal(lambda: ask(model="nobody")),
        "stranger": refusal(lambda: ask("wrong")),
    }


drive(
    text=text,
    structured=structured,
    structuredBySchema=by_schema,
    structuredInParts=in_parts,
    errors=errors,
)
