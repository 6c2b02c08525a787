# SPDX-License-Identifier: Apache-2.0
"""Images and disks, whatever the driver.

``sources`` says where an image may come from and opens it, ``inspection`` looks into it before
QEMU does, ``cache`` keeps it, ``disks`` makes disks of it with qemu-img, ``process`` runs qemu-img
without blocking the hub.
"""
