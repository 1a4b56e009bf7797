"""The cohere package: reranking."""

import cohere
from drive import BASE, KEY, MODEL, drive, refusal

QUERY = "deep sea"
DOCUMENTS = ["red fish", "the sea is deep", "q"]


def opened(key=KEY):
    return cohere.ClientV2(api_key=key, base_url=BASE)


def rerank():
    answer = opened().rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=2)
    return {
        "scores": [each.relevance_score for each in answer.results],
        "indexes": [each.index for each in answer.results],
    }


def errors():
    def ask(key=KEY, **more):
        usual = {"model": MODEL, "query": QUERY, "documents": DOCUMENTS}
        return opened(key).rerank(**{**usual, **more})

    return {
        "wrong": refusal(lambda: ask(top_n=0)),
        "unknown": refusal(lambda: ask(model="nobody")),
        "stranger": refusal(lambda: ask("wrong")),
    }


drive(rerank=rerank, errors=errors)
