# SPDX-License-Identifier: Apache-2.0
"""The image cache as the operator and the scheduler see it: fill it ahead of time, keep it small."""

from collections.abc import Sequence
from typing import Any

import libvirt

from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Context
from compute_agent.virt.libvirt.base import LibvirtBase


class LibvirtImages(LibvirtBase):
    """Images on this host."""

    def cache_images(self, context: Context, images: Sequence[Image]) -> dict[str, Any]:
        """Fetch images into the cache before they are needed."""
        return self._images.prefetch(images)

    def manage_image_cache(self, context: Context, all_instances: Sequence[Any]) -> dict[str, Any]:
        """Drop cached images that no disk stands on and no domain names, once they are old enough."""
        instances = [one for one in all_instances if isinstance(one, Instance)]
        images = [one for one in all_instances if isinstance(one, Image)]
        return self._images.manage(
            self._instances_path,
            in_use=self._host.ask(_descriptions),
            keep=[*images, *(one.image for one in instances if one.image is not None)],
            files=[url for one in instances for url in (one.kernel, one.ramdisk) if url],
        )


def _descriptions(connection: libvirt.virConnect) -> list[str]:
    """Return the XML of every domain, as it is and as it is to be. In a native thread."""
    told = []
    for domain in connection.listAllDomains(0):
        for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            try:
                told.append(str(domain.XMLDesc(flags)))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
    return told
