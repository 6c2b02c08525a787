# SPDX-License-Identifier: Apache-2.0
"""Options of images and their cache."""

from oslo_config import cfg

IMAGES = cfg.OptGroup("images", title="Where images may come from")
CACHE = cfg.OptGroup("image_cache", title="The image cache")
GLANCE = cfg.OptGroup("glance", title="Where glance:// images come from")

OPTIONS = [
    (
        IMAGES,
        [
            cfg.ListOpt(
                "allowed_sources",
                default=["file://$instances_path/images/", "https://"],
                help="Prefixes that an image's url may have. Links in a file:// one are followed first. "
                "Addresses that are loopback or link-local are reached only under a prefix that names "
                "them (or localhost) as its host. Redirects have to be allowed too.",
            ),
            cfg.ListOpt(
                "allowed_destinations",
                default=["file://$instances_path/snapshots/", "https://"],
                help="Prefixes that a snapshot's destination may have, as in allowed_sources. "
                "A file that is there already is never replaced.",
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
                "connect_timeout", default=10.0, min=1, mutable=True, help="Seconds to connect to a source."
            ),
            cfg.FloatOpt(
                "download_timeout",
                default=60.0,
                min=1,
                mutable=True,
                help="Seconds without a byte, after which a download is given up; "
                "min_download_rate_kb is judged over as many.",
            ),
            cfg.IntOpt(
                "min_download_rate_kb",
                default=4,
                min=0,
                mutable=True,
                help="KiB in a second below which a source is given up as too slow; 0: none is.",
            ),
            cfg.IntOpt(
                "download_retries",
                default=3,
                min=0,
                mutable=True,
                help="How often a download that broke off is taken up again, without getting further.",
            ),
            cfg.StrOpt("http_proxy", help="http://[NAME:WORD@]HOST:PORT for http:// sources.", secret=True),
            cfg.StrOpt("https_proxy", help="http://[NAME:WORD@]HOST:PORT for https:// sources.", secret=True),
            cfg.ListOpt(
                "no_proxy", default=[], help="Hosts that are asked directly; .example.org is all below it."
            ),
            cfg.StrOpt(
                "ca_file",
                help="PEM file of the authorities that https:// sources are checked by. "
                "Default: the system's.",
            ),
            cfg.IntOpt(
                "max_expansion",
                default=200,
                min=1,
                mutable=True,
                help="How many times its file's size an image's data may be, if that is over a GiB: "
                "more is refused as ImageTooLarge.",
            ),
        ],
    ),
    (
        CACHE,
        [
            cfg.StrOpt(
                "subdirectory_name", default="_base", help="Directory of the cache below instances_path."
            ),
            cfg.IntOpt(
                "unused_minimum_age",
                default=86400,
                min=600,
                mutable=True,
                help="Seconds since its last use after which manage_image_cache drops an unused image.",
            ),
            cfg.IntOpt(
                "max_size_gb",
                default=0,
                min=0,
                mutable=True,
                help="GiB that manage_image_cache lets the cache take, if it can: unused images go, "
                "the longest unused first, whatever their age. 0: no limit.",
            ),
            cfg.IntOpt(
                "manager_interval",
                default=2400,
                min=0,
                mutable=True,
                help="Seconds between two rounds of manage_image_cache that the agent makes by itself; "
                "0: it makes none.",
            ),
        ],
    ),
    (
        GLANCE,
        [
            cfg.StrOpt("endpoint", help="The image service's url. Default: what the catalog says."),
            cfg.StrOpt(
                "auth_url",
                help="The identity service's url (needs the extra [glance]). Without it, a sender's "
                "own X-Auth-Token header is all that an image service is shown.",
            ),
            cfg.StrOpt("username", help="Who the agent is."),
            cfg.StrOpt("password", secret=True, help="Its password."),
            cfg.StrOpt("user_domain_name", default="Default", help="The user's domain."),
            cfg.StrOpt("project_name", help="The project that it works for."),
            cfg.StrOpt("project_domain_name", default="Default", help="The project's domain."),
            cfg.StrOpt("application_credential_id", help="Instead of a user and a password."),
            cfg.StrOpt("application_credential_secret", secret=True, help="Its secret."),
            cfg.StrOpt("region_name", help="Which of the catalog's regions."),
            cfg.StrOpt(
                "interface",
                default="internal",
                choices=["internal", "public", "admin"],
                help="Which of the catalog's interfaces.",
            ),
            cfg.StrOpt(
                "ca_file",
                help="PEM file for the identity service. Default: [images] ca_file. "
                "The image service is checked by [images] ca_file.",
            ),
        ],
    ),
]
