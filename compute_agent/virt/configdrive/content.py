# SPDX-License-Identifier: Apache-2.0
"""The files of a config drive: OpenStack's layout and NoCloud's on the same drive.

Which of the two a guest's cloud-init takes is decided by the drive's label, so the files may stand side by
side. The order is the tree's; nothing of the clock or of chance is in it.
"""

from compute_agent.model import errors
from compute_agent.virt.configdrive import nocloud, openstack, wanted
from compute_agent.virt.configdrive.given import Given
from compute_agent.virt.configdrive.injected import decode, from_base64, is_plain

Files = dict[str, bytes]
"""What is on a drive, by its path there."""

SIZE_LIMIT = 32 * 1024 * 1024
"""Bytes that the files of a drive have together at most."""


def files(given: Given) -> Files:
    """Return the files that a drive with what is ``given`` has.

    :raises InvalidArguments: if something is malformed: a file's path, base64, an ssh key, an address
    :raises MessageTooLarge: if it is more than a drive takes
    """
    for number, key in enumerate(given.instance.ssh_keys):
        if not key.strip() or not is_plain(key):
            raise errors.InvalidArguments(f"ssh key {number} is not one line of text")
    injected = decode(given.injected_files)
    text = given.instance.user_data
    user_data = None if text is None else from_base64(text, "user_data")
    made = openstack.files(given, injected, user_data) | nocloud.files(given, user_data)
    size = sum(len(contents) for contents in made.values())
    if size > SIZE_LIMIT:
        raise errors.MessageTooLarge(f"the config drive's files have {size} bytes, the limit is {SIZE_LIMIT}")
    return dict(sorted(made.items()))


def check(given: Given) -> None:
    """Say whether a drive can be made of what is ``given``; raises as :func:`files` does."""
    wanted.check_properties(given)
    files(given)
