"""Prometheus' text as a table."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> dict[str, float]:
    """Return every sample by its name, without our prefix and with its labels in Prometheus'
    form."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("gguf_worker_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found
