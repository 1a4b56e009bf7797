"""Guidance, by its model for OpenAI's chats."""

import json

import guidance
from drive import DESCRIPTION, GREETING, KEY, MODEL, OPENAI, PERSON, drive, refusal
from guidance import assistant, gen, models, user


def model(name=MODEL, key=KEY):
    return models.OpenAI(name, api_key=key, base_url=OPENAI, max_retries=0, echo=False)


def said(lm, question, answer):
    with user():
        lm += question
    with assistant():
        lm += answer
    return lm["answer"]


def text():
    return {"text": said(model(), GREETING, gen("answer")), "usage": None}


def structured():
    answer = said(model(), DESCRIPTION, guidance.json(name="answer", schema=PERSON))
    return {"value": json.loads(answer)}


def errors():
    return {
        "wrong": refusal(lambda: said(model(), "Hi", gen("answer", temperature=-3))),
        "unknown": refusal(lambda: said(model("nobody"), "Hi", gen("answer"))),
        "stranger": refusal(lambda: said(model(key="wrong"), "Hi", gen("answer"))),
    }


drive(text=text, structured=structured, errors=errors)
