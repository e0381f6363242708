from __future__ import annotations

from fedplug_median import Median

from fedplug.testing import parametrize_with_checks


@parametrize_with_checks([Median()])
def test_laws(component, check):
    check(component)
