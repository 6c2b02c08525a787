# SPDX-License-Identifier: Apache-2.0
"""Volumes of guests: block devices that a storage service offers, as Cinder's ``connection_info`` tells.

QEMU's own network drivers come first (NBD, iSCSI, RBD): the host's kernel has no part in them, nothing has
to be connected or cleaned up on the host, and a crash leaves nothing behind. Local files and devices, and
files on NFS, need little more. All else goes through os-brick, where that is installed.

``place``: where a volume is, for QEMU. One small module per protocol reads it from ``connection_info``
(``local``, ``nfs``, ``nbd``, ``iscsi``, ``rbd``, ``brick``); ``connection`` chooses among them and makes
the guest's disk. ``secrets`` keeps what must not stand in a domain's XML. ``found`` finds a volume in a
guest, by its serial number. Then one module per verb, as steps: ``attach``, ``detach``, ``swap``,
``extend``, ``snapshots``.
"""
