# SPDX-License-Identifier: Apache-2.0
"""Field types that every message is checked against.

What comes from a message may end in a path, an argument list or XML, so text fields say
which characters they take. Patterns end in ``(?!\\n)`` because ``$`` alone lets a final
newline through in Python; the same text is valid in JSON Schema.
"""

from typing import Annotated

from msgspec import Meta

SECRET = {"secret": True}
"""Marks a field that never leaves the agent: see :mod:`compute_agent.model.secrets`."""
ADDRESS = {"address": True}
"""Marks a url, parts of which never leave the agent."""

TEXT_PATTERN = r"^[^\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]*$(?!\n)"

Uuid = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)",
        description="a UUID in lower case with hyphens",
    ),
]
Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)", description="a name without path characters"),
]
HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$(?!\n)")]
Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,254}$(?!\n)")]
Text = Annotated[str, Meta(pattern=TEXT_PATTERN, max_length=255)]
LongText = Annotated[str, Meta(pattern=TEXT_PATTERN, max_length=4096)]
Url = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://[^\x00-\x20\x7f-\x9f\ud800-\udfff]*$(?!\n)",
        max_length=4096,
        extra=ADDRESS,
    ),
]
Checksum = Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$(?!\n)")]
MacAddress = Annotated[str, Meta(pattern=r"^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$(?!\n)")]
IpAddress = Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:]{2,45}(/[0-9]{1,3})?$(?!\n)")]
InterfaceName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$(?!\n)")]
DeviceName = Annotated[str, Meta(pattern=r"^/dev/[a-z0-9]{1,32}$(?!\n)")]
Base64 = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]*={0,2}$(?!\n)")]
SecretText = Annotated[str, Meta(pattern=TEXT_PATTERN, max_length=1024, extra=SECRET)]
SecretBase64 = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9+/\r\n]*={0,2}[\r\n]*$", max_length=2 * 1024 * 1024, extra=SECRET)
]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=30 * 86400)]
Generation = Annotated[int, Meta(ge=0, le=2**53)]
PageSize = Annotated[int, Meta(ge=1, le=1000)]
