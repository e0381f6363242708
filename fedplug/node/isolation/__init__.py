"""Shutting the worker process in: no network, no files but its own, no more than its share of the machine."""
