# SPDX-License-Identifier: Apache-2.0
"""Options of images and their cache."""

from oslo_config import cfg

IMAGES = cfg.OptGroup("images", title="Where images may come from")
CACHE = cfg.OptGroup("image_cache", title="The image cache")

OPTIONS = [
    (
        IMAGES,
        [
            cfg.ListOpt(
                "allowed_sources",
                default=["file://$instances_path/images/", "https://"],
                help="Prefixes that an image's url may have. Links in a file:// one are followed first.",
            ),
            cfg.IntOpt(
                "max_virtual_size_gb",
                default=2048,
                min=1,
                mutable=True,
                help="GiB that an image may claim to be; a larger one is refused as ImageTooLarge.",
            ),
            cfg.IntOpt(
                "qemu_img_timeout",
                default=3600,
                min=1,
                mutable=True,
                help="Seconds that one run of qemu-img may take.",
            ),
            cfg.IntOpt(
                "qemu_img_memory_mb",
                default=2048,
                min=128,
                mutable=True,
                help="MiB of address space for qemu-img.",
            ),
            cfg.FloatOpt(
                "download_timeout", default=60.0, min=1, mutable=True, help="Seconds without a byte."
            ),
        ],
    ),
    (
        CACHE,
        [
            cfg.StrOpt(
                "subdirectory_name", default="_base", help="Directory of the cache below instances_path."
            ),
        ],
    ),
]
