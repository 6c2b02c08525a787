# SPDX-License-Identifier: Apache-2.0
"""What a config drive is made from: an instance, and what came with its request and is on no record.

None of it shows when it is printed: passwords and files of a guest have no place in a log.
"""

import dataclasses
from collections.abc import Sequence

from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Given:
    """What goes onto a drive.

    :param vifs: None for those of ``instance.network_info``
    :param admin_password: for the guest's administrator
    :param injected_files: pairs of an absolute path in the guest and the contents in base64
    """

    instance: Instance
    vifs: Sequence[Vif] | None = None
    admin_password: str | None = None
    injected_files: Sequence[tuple[str, str]] = ()

    @property
    def network(self) -> Sequence[Vif]:
        """The interfaces that the drive describes."""
        return self.instance.network_info if self.vifs is None else self.vifs

    @property
    def hostname(self) -> str:
        """What the guest is to be called; the instance's own name where it has no host name."""
        return self.instance.hostname or self.instance.named().name
