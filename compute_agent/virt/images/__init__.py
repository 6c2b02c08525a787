# SPDX-License-Identifier: Apache-2.0
"""Images and disks, whatever the driver.

Where an image comes from: ``sources`` says what is allowed, ``addresses`` where a name may lead;
``web`` asks a server, ``stream`` receives what it sends, ``download`` takes it up again where it
broke off, ``glance`` knows OpenStack's image service, ``fetch`` brings all of them to a ``part``.

What becomes of it: ``inspection`` looks into it before QEMU does, ``second_opinion`` after;
``cache`` keeps it with its ``stamp``, by the name that ``wanted`` finds; ``soundness`` doubts it
after an unclean stop, ``housekeeping`` drops it when ``usage`` finds it unused.

``disks`` makes disks of it with ``qemu_img``, and ``process`` runs that without blocking the hub.
"""
