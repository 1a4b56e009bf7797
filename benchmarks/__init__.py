"""Peers side by side: the same model, threads and context, one client, ratios in one run."""
