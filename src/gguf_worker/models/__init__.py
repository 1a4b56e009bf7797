"""Models as files: read (`gguf`), found (`source`), kept (`store`), sized (`memory`).

A folder of four rooms, each with a front of its own; `store` stands on `source`, and all of them on
`gguf`. Nothing here runs a model, and nothing here knows of requests.
"""
