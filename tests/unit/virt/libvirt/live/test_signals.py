# SPDX-License-Identifier: Apache-2.0
"""What libvirt tells of devices and jobs reaches those who listen, and nobody else."""

from __future__ import annotations

from compute_agent.virt.libvirt.signals import DeviceSignal, JobSignal, Signals

ONE, OTHER = "5f0c1a9e-26f0-4d1b-9d5e-0c8d1f2a3b4c", "0f5b3a52-7a5e-4c0e-9a43-2d0e1c9b8a77"


def test_a_listener_hears_of_its_own_device_only() -> None:
    signals = Signals()
    removed = DeviceSignal(ONE, "virtio-disk1", removed=True)
    with signals.listening(ONE, "virtio-disk1") as listener:
        signals.handle(DeviceSignal(OTHER, "virtio-disk1", removed=True))
        signals.handle(DeviceSignal(ONE, "virtio-disk2", removed=True))
        assert not listener.rung.is_set()
        signals.handle(removed)
        assert listener.rung.is_set()
        assert listener.take() == [removed]
        assert not listener.rung.is_set()
    signals.handle(removed)
    assert listener.take() == []


def test_several_may_listen_to_one_disk_and_all_look_again_after_a_reconnect() -> None:
    signals, done = Signals(), JobSignal(ONE, "vda", 4, 0)
    with signals.listening(ONE, "vda") as first:
        with signals.listening(ONE, "vda") as second:
            signals.handle(done)
            assert (first.take(), second.take()) == ([done], [done])
        signals.ring_all()
        assert (first.rung.is_set(), second.rung.is_set()) == (True, False)
