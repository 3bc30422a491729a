from concurrent.futures import ThreadPoolExecutor

import pytest

from agents.clients import over_litellm


@pytest.fixture(scope="session")
def _litellm() -> None:
    # It runs a loop of its own, which no thread with a running one may.
    with ThreadPoolExecutor() as elsewhere:
        elsewhere.submit(over_litellm.load).result()
