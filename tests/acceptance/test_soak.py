"""A short soak with a seed of its own; `make soak` is the long one."""

import pytest

from tests.acceptance.proxied import ProxiedCluster
from tests.soak.soak import Soak, table

pytestmark = pytest.mark.alone


@pytest.mark.timeout(300)
def test_thirty_runs_under_random_faults_all_end_as_they_should(proxied: ProxiedCluster) -> None:
    soak = Soak(proxied, runs=30, faults=6, seed=3, lanes=6, longest_seconds=120)
    verdict = soak.run()
    assert verdict.is_clean, table(soak, verdict)
    assert soak.done.total() == 6
