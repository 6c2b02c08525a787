# SPDX-License-Identifier: Apache-2.0
"""A domain that libvirtd was about to start when it was killed: the start is made anew."""

from unittest import mock

import libvirt
import pytest

from compute_agent.model import errors
from compute_agent.virt.libvirt import guest
from compute_agent.virt.libvirt.events import STARTED, Expectation

STARTING = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP]
OFF = [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED]


def libvirt_error(code: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("it failed")
    error.err = (code, libvirt.VIR_FROM_QEMU, "it failed", 2, None, None, None, 0, 0)
    return error


@pytest.fixture
def domain() -> mock.Mock:
    """One that is starting until it is destroyed."""
    made = mock.create_autospec(libvirt.virDomain, instance=True)
    made.state.return_value = STARTING
    made.hasManagedSaveImage.return_value = False
    made.isActive.side_effect = lambda: made.state.return_value == STARTING
    made.destroy.side_effect = lambda: setattr(made.state, "return_value", OFF)
    return made


def test_it_is_ended_and_started(domain: mock.Mock) -> None:
    expected = Expectation(STARTED)
    guest.start(domain, expected)
    assert expected.begun
    assert domain.destroy.call_count == domain.createWithFlags.call_count == 1


def test_one_that_libvirtd_ends_by_itself_is_waited_for(domain: mock.Mock) -> None:
    def destroy() -> None:
        if domain.destroy.call_count == 3:
            domain.state.return_value = OFF
        raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID)

    domain.destroy.side_effect = destroy
    guest.start(domain, Expectation(STARTED))
    assert domain.createWithFlags.call_count == 1


@pytest.mark.parametrize("do", [guest.start, guest.restore, guest.pull_plug])
def test_one_that_libvirtd_holds_for_ever_ends_in_a_typed_error(domain: mock.Mock, do: mock.Mock) -> None:
    domain.destroy.side_effect = libvirt_error(libvirt.VIR_ERR_OPERATION_TIMEOUT)
    expected = Expectation(STARTED)
    with pytest.raises(errors.HypervisorError) as raised:
        do(domain, expected)
    assert "start libvirtd" in str(raised.value.hint)
    assert not expected.begun


def test_its_end_tells_of_no_stop(domain: mock.Mock) -> None:
    expected = Expectation(STARTED)
    assert guest.pull_plug(domain, expected)
    assert not expected.begun
