# SPDX-License-Identifier: Apache-2.0
"""The hypervisor: does libvirt answer, can QEMU's user use ``/dev/kvm``, are the tools there?

What the agent itself looks at when it is asked to ``verify`` is looked at by the same functions.
"""

import os
import pathlib
import shutil
import subprocess
from typing import Any

from compute_agent.cmd.checks.finding import Finding, Findings, Late, Level, error, good, warning, within

LIBVIRT, KVM, TOOLS = "libvirt", "kvm", "qemu-img"
ANSWER_S = 10.0
PROBE_S = 60.0
"""libvirt examines QEMU when it is first asked about it."""
CPUINFO = pathlib.Path("/proc/cpuinfo")


def check_libvirt(conf: Any) -> Findings:
    """The daemon, its version, what it says of guests of the configured type, and what QEMU's user may."""
    if not uses_libvirt(conf):
        yield good(LIBVIRT, f"not needed by {conf.compute_driver}")
        return
    try:
        import libvirt
    except ImportError:
        yield error(LIBVIRT, "its Python binding is missing", "pip install 'compute-agent[libvirt]'")
        return
    libvirt.registerErrorHandler(lambda _unused, _error: None, None)
    uri = conf.libvirt.connection_uri
    try:
        connection = within(ANSWER_S, lambda: libvirt.open(uri))
    except (libvirt.libvirtError, Late) as failure:
        yield error(
            LIBVIRT,
            f"{uri} can't be reached: {failure}",
            "systemctl enable --now libvirtd (or virtqemud); check [libvirt] connection_uri",
        )
        yield from _user(conf, None)
        return
    yield from _connected(conf, libvirt, connection)


def _connected(conf: Any, libvirt: Any, connection: Any) -> Findings:
    from compute_agent.virt.libvirt import fitness

    user: Any = None
    virt_type = conf.libvirt.virt_type
    try:
        versions = within(ANSWER_S, lambda: fitness.versions(connection))
        yield good(LIBVIRT, f"libvirt {_dotted(versions.libvirt)}, QEMU {_dotted(versions.qemu)}")
        yield from (_finding(LIBVIRT, problem) for problem in fitness.check_versions(versions))
        user = fitness.qemu_user(within(PROBE_S, connection.getCapabilities))
        within(PROBE_S, lambda: connection.getDomainCapabilities(None, None, None, virt_type))
    except Late as late:
        yield error(
            LIBVIRT, f"it hangs: {late}", "look at its log; see the finding about kvm, if there is one"
        )
    except libvirt.libvirtError as failure:
        yield error(
            LIBVIRT, f"no guests of type {virt_type}: {failure}", "install QEMU; set [libvirt] virt_type"
        )
    yield from _user(conf, user)


def _user(conf: Any, user: Any) -> Findings:
    """What depends on whom QEMU runs as; ``user`` is None when that is not known."""
    from compute_agent.virt.libvirt import fitness

    problems = list(fitness.check_kvm(user, conf.libvirt.virt_type))
    yield from (_finding(KVM, problem) for problem in problems)
    if conf.libvirt.virt_type == "kvm" and not problems:
        yield good(KVM, f"{fitness.KVM} {'is there' if user is None else 'can be opened by QEMU'}")
        yield from _nested()
    if os.path.isdir(conf.instances_path):
        about = "instances_path"
        yield from (_finding(about, found) for found in fitness.check_storage(conf.instances_path, user))


def _nested() -> Findings:
    flags = next((line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), "")
    if " hypervisor" in flags:
        yield warning(
            KVM,
            "this host is a guest itself; under nested virtualization guests may hang",
            "start one guest and look at its console; [libvirt] virt_type = qemu runs everywhere, slowly",
        )


def check_tools(conf: Any) -> Findings:
    """The programs that the agent runs."""
    if not uses_libvirt(conf):
        return
    found = shutil.which("qemu-img")
    if found is None:
        yield error(TOOLS, "it is missing", "apt-get install qemu-utils")
        return
    done = subprocess.run(
        [found, "--version"],
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        yield error(TOOLS, f"{found} does not run: {done.stderr.strip()[:200]}", "install qemu-utils again")
    else:
        yield good(TOOLS, done.stdout.partition("\n")[0])


def uses_libvirt(conf: Any) -> bool:
    """Return whether the configured driver needs libvirt."""
    return "libvirt" in conf.compute_driver.lower()


def _finding(about: str, problem: Any) -> Finding:
    level = Level.WARNING if problem.severity == "warning" else Level.ERROR
    return Finding(level, about, problem.message, problem.remedy)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
