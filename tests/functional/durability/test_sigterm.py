# SPDX-License-Identifier: Apache-2.0
"""The end that a service manager or an upgrade brings, in the middle of the work."""

from collections.abc import Callable
from pathlib import Path

from tests.rig.agent import Agent
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
ENDS = ("operation.succeeded", "operation.failed", "operation.cancelled")


def test_sigterm_loses_nothing_of_what_runs_for_longer_than_the_agent_may_take(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    fake = {"ledger": tmp_path / "ledger", "faults": "spawn.start=hang*2"}
    options = {"max_concurrent_builds": 2, "graceful_shutdown_timeout": 2}
    one = agent(sections={"DEFAULT": options, "fake": fake})
    to = sender(one)
    operations = [to.cast("spawn", instance=describe(IMAGE)) for _ in range(6)]
    for operation in operations[:2]:
        receiver.wait_for(type="operation.started", operation_id=operation, timeout=30)
    assert one.stop().code == 0
    operations += [to.cast("spawn", instance=describe(IMAGE)) for _ in range(4)]
    one.configure({"fake": {"faults": None}})
    one.start()
    for operation in operations:
        receiver.succeeded(operation, timeout=60)
        assert [kind for kind in receiver.types_of(operation) if kind in ENDS] == ["operation.succeeded"]
    attempts = [receiver.end_of(operation)["data"]["attempts"] for operation in operations]
    assert attempts == [2, 2, *[1] * 8], "what ran was interrupted and went on, the rest had not begun"
    defined = [line for line in (tmp_path / "ledger").read_text().splitlines() if '"effect":"define"' in line]
    assert len(defined) == len(operations), "each guest was made once"
    receiver.assert_gapless()
