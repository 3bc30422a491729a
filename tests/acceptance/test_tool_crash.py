"""A worker dies around the effect of a tool: what is done again, and what the model is told."""

from collections import Counter
from pathlib import Path

import pytest

from agents.loop import UNKNOWN_OUTCOME
from config.processes import wait_until
from tests.acceptance.audit import audit, calls, new_key
from tests.acceptance.client import Client
from tests.acceptance.cluster import Cluster
from tests.acceptance.failpoints import Failpoints

pytestmark = pytest.mark.usefixtures("healed")

CLASSES = ("safe", "keyed", "once")
TOLD = ["safe is done", "keyed is done", f"Error: {UNKNOWN_OUTCOME}"]
# How often each tool began and ended: once before the crash as far as it got, and again where that is allowed.
EFFECTS = {
    "tool_before_effect": {"safe": (1, 1), "keyed": (1, 1), "once": (0, 0)},
    "tool_in_effect": {"safe": (2, 1), "keyed": (2, 1), "once": (1, 0)},
    "tool_after_effect": {"safe": (2, 2), "keyed": (2, 2), "once": (1, 1)},
}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("tool_before_effect", marks=pytest.mark.chaos),
        "tool_in_effect",
        pytest.param("tool_after_effect", marks=pytest.mark.chaos),
    ],
)
def test_a_tool_is_repeated_after_a_crash_only_if_it_says_so(
    cluster: Cluster, client: Client, failpoints: Failpoints, tmp_path: Path, moment: str
) -> None:
    # given a tool of each class, all of them just then at this moment of their effect
    key, effects = new_key(), tmp_path / "effects"
    effects.touch()
    failpoints.arm(moment, "wait")
    wanted = " ".join(f'call:append_{one}={{"path": "{effects}"}}' for one in CLASSES)
    run = client.post_run(client.chat(), f"{wanted} say:3 script:text tokens:3 key:{key}")
    reader = client.follow(run)
    failpoints.wait_reached(moment)
    begun = {"tool_before_effect": 0, "tool_in_effect": 3, "tool_after_effect": 6}[moment]
    assert wait_until(lambda: len(effects.read_text().splitlines()) == begun, 10)
    # when their worker dies
    cluster.holder(run).kill()
    failpoints.disarm()
    # then the effects are what each class promises
    run = audit(cluster, client, run, key, reader, expected_calls=2)
    assert (run["status"], run["attempt"], run["step_count"]) == ("succeeded", 2, 2)
    lines = [line.split() for line in effects.read_text().splitlines()]
    happened = Counter((name, what) for name, what, _ in lines)
    assert {one: (happened[one, "begins"], happened[one, "ends"]) for one in CLASSES} == EFFECTS[moment]
    # every repeat came with the key of its call
    keys = {name: {key for other, _, key in lines if other == name} for name, _, _ in lines}
    assert all(len(found) == 1 for found in keys.values())
    assert len(set().union(*keys.values())) == len(keys)
    assert all(key.startswith(f"{run['id']}:") for found in keys.values() for key in found)
    # and the model was told
    assert [message["content"] for message in calls(cluster, key)[-1]["messages"][-3:]] == TOLD
