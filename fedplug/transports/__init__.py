"""Transports: the registry by URL scheme, and the one that needs no network."""

from __future__ import annotations

from fedplug.transports.registry import open_transport, scheme_of

__all__ = ["open_transport", "scheme_of"]
