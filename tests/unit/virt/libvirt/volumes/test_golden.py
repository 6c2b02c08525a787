# SPDX-License-Identifier: Apache-2.0
"""Each kind of volume in a domain is as it was reviewed, libvirt's schema takes it, and no secret is in it.

Kinds that no test can run (RBD, NFS) are held by this alone. To write the files anew after a change:
``REGENERATE=1 pytest tests/unit/virt/libvirt/volumes/test_golden.py``, and read the diff.
"""

from __future__ import annotations

import os
import pathlib

import pytest
from lxml import etree

from compute_agent.virt.libvirt import config
from compute_agent.virt.libvirt.volumes import connection
from tests.unit.virt.libvirt.volumes.infos import INFOS, KEY, PASSWORD, PATHS, PHRASE, xml

GOLDEN = pathlib.Path(__file__).parent / "golden"
SCHEMA = pathlib.Path("/usr/share/libvirt/schemas/domain.rng")
_DOMAIN = """<domain type='qemu'><name>n</name><memory>1</memory><os><type>hvm</type></os>
<devices>{}</devices></domain>"""


def golden(name: str) -> str:
    path = GOLDEN / f"{name}.xml"
    if os.environ.get("REGENERATE"):
        path.write_text(xml(name))
    return path.read_text()


@pytest.mark.parametrize("name", INFOS)
def test_a_volume_is_written_as_its_golden_file_says(name: str) -> None:
    assert xml(name) == golden(name)
    assert config.Disk.from_xml(golden(name)).to_xml() == golden(name)


@pytest.mark.parametrize("name", INFOS)
def test_libvirts_schema_takes_a_golden_file(name: str) -> None:
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    disk = etree.fromstring(golden(name))
    for newer in disk.findall("source/reconnect"):  # of libvirt 9.2: an older one leaves it out of account
        newer.getparent().remove(newer)
    domain = _DOMAIN.format(etree.tostring(disk, encoding="unicode"))
    schema.assertValid(etree.fromstring(domain))


def test_every_golden_file_is_of_a_kind() -> None:
    assert {path.stem for path in GOLDEN.glob("*.xml")} == set(INFOS)


@pytest.mark.parametrize("name", INFOS)
def test_no_secret_is_in_what_is_kept_or_shown(name: str) -> None:
    given, beside = INFOS[name]
    volume = connection.read(given, PATHS, **beside)
    shown = [golden(name), repr(volume), *(secret.to_xml() for secret in volume.secrets)]
    assert [text for text in shown if any(word in text for word in (PASSWORD, KEY, PHRASE))] == []


def test_secrets_are_private_and_their_names_follow_from_what_they_are_for() -> None:
    given, beside = INFOS["iscsi-luks"]
    volume = connection.read(given, PATHS, **beside)
    found = {secret.purpose: secret for secret in volume.secrets}
    assert found["iscsi"].value == PASSWORD.encode()
    assert found["luks"].value == PHRASE.encode()
    for secret in volume.secrets:
        root = etree.fromstring(secret.to_xml())
        assert (root.get("private"), root.findtext("uuid")) == ("yes", secret.uuid)
        assert secret.uuid in golden("iscsi-luks")
    assert connection.read(given, PATHS, **beside).secrets == volume.secrets
