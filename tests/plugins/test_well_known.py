"""What our plugins offer is known by name to an installation without them, which says how to get it."""

from __future__ import annotations

import pytest

from fedplug.core.components import _EXTRAS, KINDS
from fedplug.core.errors import UnknownNameError
from fedplug.core.plugins import PluginHost, default_host

QUIET = ("data_manager",)  # nobody names these


def test_every_component_of_ours_has_an_extra_that_brings_it():
    offers = [offer for kind in KINDS if kind not in QUIET for offer in default_host().components(kind)]
    ours = {(offer.kind, offer.component.name) for offer in offers if offer.plugin != "builtin"}
    assert ours == set(_EXTRAS)


@pytest.mark.parametrize(
    ("kind", "name", "extra"), [("aggregator", "krum", "robust"), ("agg_optimizer", "fedadam", "scaffold")]
)
def test_whoever_has_not_installed_it_is_told_how(kind, name, extra, monkeypatch):
    monkeypatch.delenv("FEDPLUG_PLUGINS", raising=False)
    with pytest.raises(UnknownNameError) as told:
        PluginHost.discover(found=[]).component(kind, name)
    assert f"pip install 'fedplug[{extra}]'" in str(told.value)
