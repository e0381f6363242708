"""The conformance kit for engines on a Ray cluster: the workers of one engine after the other, on one cluster."""

from __future__ import annotations

import pytest

from fedplug.testing import EngineCase, parametrize_with_checks
from fedplug_ray import RayEngine
from fedplug_ray.cluster import Cluster

STORE = 200 * 2**20


@pytest.fixture(scope="module")
def cluster():
    joined = Cluster.join(None, processors=4, object_store_memory=STORE)
    yield joined
    joined.leave()


@pytest.mark.slow
@parametrize_with_checks([EngineCase(lambda: RayEngine(2))])
def test_laws(cluster, component, check):
    check(component)
