"""The part of Settings about keys: the node's own, and the researchers that it trusts."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from starlette.responses import Response

from fedplug.core.errors import KeysError
from fedplug.core.keys import allow_command, check_public, fingerprint
from fedplug.node.keys import NodeKeys, trust, untrust
from fedplug.node.web.site import ACTOR, Handler, Visit


def keys_part(visit: Visit) -> Markup:
    """The section."""
    keys, who = NodeKeys(visit.site.folder), visit.store.identity
    facts: dict[str, Any] = {"problem": None, "own": "", "command": "", "trusted": []}
    try:
        pair = keys.own.pair()
        facts["trusted"] = [
            (entry.name, fingerprint(entry.key), entry.since, entry.key) for entry in keys.researchers.entries()
        ]
        if pair is not None:
            facts |= {"own": fingerprint(pair.public), "command": allow_command(who.node_id, pair.public)}
    except KeysError as error:
        facts["problem"] = error
    return visit.site.render("part_keys.html", csrf=visit.session.csrf, addresses=who.researchers, **facts)


def trust_key(visit: Visit) -> Response:
    """Trust a key, as ``fedplug node trust`` does."""
    key = check_public(visit.form.text("key"), "What you have typed")
    url, _ = trust(visit.store, key, visit.form.text("researcher").strip(), actor=ACTOR)
    return visit.go(
        "/settings#keys-title", f"The node trusts the researcher at {url} who has the key {fingerprint(key)}. Compare "
        "that with them: 'fedplug keys show' shows it there.",
    )  # fmt: skip


def untrust_key(visit: Visit) -> Response:
    """Trust a key no more, as ``fedplug node untrust`` does."""
    gone = untrust(visit.store, check_public(visit.form.text("key")), actor=ACTOR)
    return visit.go(
        "/settings#keys-title", *(f"The key {fingerprint(each.key)} is not trusted any more." for each in gone)
    )


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/settings/trust", trust_key),
    ("POST", "/settings/untrust", untrust_key),
)
