"""Comparisons of the worker with other servers, and measurements of its own costs.

Every peer gets the same model, threads and context, one client asks them all, and what counts are
ratios within one run. The worker does not know this package.
"""
