"""DSPy: a plain call of its model, and signatures by a schema."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import dspy
from drive import DESCRIPTION, GREETING, KEY, MODEL, OPENAI, drive, refusal


def model(name=MODEL, key=KEY, **more):
    usual = {"api_base": OPENAI, "api_key": key, "cache": False, "num_retries": 0}
    return dspy.LM(f"openai/{name}", **{**usual, **more})


def text_of(output):
    return output["text"] if isinstance(output, dict) else output


def text():
    lm = model()
    (answer,) = lm(GREETING)
    return {"text": text_of(answer), "usage": lm.history[-1]["usage"]["total_tokens"]}


def structured():
    with dspy.context(lm=model(), adapter=dspy.JSONAdapter()):
        answer = dspy.Predict("question -> name: str, age: int")(question=DESCRIPTION)
    return {"value": {"name": answer.name, "age": answer.age}}


def errors():
    return {
        "wrong": refusal(lambda: model(temperature=-3)("Hi")),
        "unknown": refusal(lambda: model("nobody")("Hi")),
        "stranger": refusal(lambda: model(key="wrong")("Hi")),
    }


drive(text=text, structured=structured, errors=errors)
