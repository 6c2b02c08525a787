# SPDX-License-Identifier: Apache-2.0
"""What a guest keeps while it is rescued and rebuilt: its interface with address and tap, and its volumes."""

import pathlib
import uuid
from collections.abc import Iterator

import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif
from compute_agent.virt.libvirt.paths import tap_name
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import local
from tests.rig.bootsector import POLITE

ADDRESS = "52:54:00:aa:bb:cc"


@pytest.fixture
def volume(watched: Watched) -> Iterator[BlockDevice]:
    """A volume that is a file."""
    path = watched.hypervisor.scratch / f"volumes-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    volume_id = str(uuid.uuid4())
    CONF.set_override("allowed_paths", [f"{path}/"], "volumes")
    info = local(path, volume_id, 2**20)
    yield BlockDevice(
        source_type=SourceType.VOLUME, volume_id=volume_id, connection_info=info, mountpoint="/dev/vdb"
    )
    CONF.clear_override("allowed_paths", "volumes")


def shown(watched: Watched, instance: Instance) -> tuple[list[str], str | None, list[str]]:
    """Its disks in order, its address and its tap, as libvirt has them."""
    guest = watched.guest(instance)
    mac = guest.xml().find("devices/interface/mac")
    return [disk.name for disk in guest.disks], None if mac is None else mac.get("address"), guest.taps


def test_interface_and_volumes_stay(watched: Watched, bridge: str, volume: BlockDevice) -> None:
    vif = Vif(id=str(uuid.uuid4()), address=ADDRESS, bridge=bridge)
    instance = watched.instance(network_info=[vif], block_device_mapping=[volume])
    watched.spawn(instance)
    kept = (ADDRESS, [tap_name(vif.id)])
    name = pathlib.Path(str(volume.volume_id)).name
    assert shown(watched, instance) == (["disk", name], *kept)
    watched.driver.rescue(None, instance, [vif], instance.image, None)
    assert shown(watched, instance) == (["disk.rescue", "disk", name], *kept)
    watched.driver.unrescue(instance, [vif])
    assert shown(watched, instance) == (["disk", name], *kept)
    image = Image(url=watched.hypervisor.images.raw("renewed", POLITE).as_uri())
    anew = msgspec.structs.replace(instance, image=image)
    watched.driver.rebuild(None, anew, image, [], None, None, [], None, None, [vif])
    assert shown(watched, instance) == (["disk", name], *kept)
