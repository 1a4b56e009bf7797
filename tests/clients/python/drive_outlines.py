"""Outlines, over the openai package; as for OpenAI's own service, or as for vLLM."""

import json

import outlines
from drive import DESCRIPTION, GREETING, KEY, MODEL, OPENAI, PROVIDER, STORY, drive, refusal
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def model(name=MODEL, key=KEY):
    client = OpenAI(base_url=OPENAI, api_key=key, max_retries=0)
    make = outlines.from_vllm if PROVIDER == "vllm" else outlines.from_openai
    return make(client, name)


def text():
    return {"text": model()(GREETING), "usage": None}


def stream():
    parts = [part for part in model().stream(GREETING) if part]
    return {"text": "".join(parts), "parts": len(parts), "usage": None}


def structured():
    return {"value": json.loads(model()(DESCRIPTION, Person))}


def errors():
    return {
        "wrong": refusal(lambda: model()("Hi", temperature=-3)),
        "unknown": refusal(lambda: model("nobody")("Hi")),
        "stranger": refusal(lambda: model(key="wrong")("Hi")),
    }


def cancel():
    parts = model().stream(STORY)
    next(part for part in parts if part)
    parts.close()
    return {"cancelled": True}


drive(text=text, stream=stream, structured=structured, errors=errors, cancel=cancel)
