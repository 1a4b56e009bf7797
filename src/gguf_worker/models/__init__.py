"""Models as files: read (`gguf`), found (`source`), kept (`store`), sized (`memory`).

Four packages, each with an interface of its own; `store` builds on `source`, and the other three on
`gguf`. Nothing here runs a model, and nothing here knows of requests.
"""
