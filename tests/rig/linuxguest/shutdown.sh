#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# What the power button and the guest agent run: says so, and switches the machine off (-r: starts it again).
echo "init shutdown $*" >/dev/ttyS0
# Before the disk goes, so that no write is torn by an orderly end.
/bin/busybox killall witness
/bin/busybox sync
case " $* " in
    *" -r "*) exec /bin/busybox reboot -f ;;
    *) exec /bin/busybox poweroff -f ;;
esac
