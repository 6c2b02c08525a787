#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of the rig's Linux guest: modules, a NIC whose address follows from its MAC, the guest agent, and the witness, which
# writes to the disk and ticks on the serial port. Kernel arguments: rig.zone=OFFSET,LENGTH rig.tick=MS rig.dirty=MIB rig.fill=MIB
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp /var/run /run /etc
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev 2>/dev/null
$bb --install -s /bin
export PATH=/bin:/sbin
console=/dev/ttyS0
say() { echo "init $*" >$console; }

zone=0,0 tick=100 dirty=0 fill=0
for word in $(cat /proc/cmdline); do
    case $word in
        rig.zone=*) zone=${word#*=} ;;
        rig.tick=*) tick=${word#*=} ;;
        rig.dirty=*) dirty=${word#*=} ;;
        rig.fill=*) fill=${word#*=} ;;
    esac
done

for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || say "module $module failed"
done
hostname guest
ip link set lo up

disk=
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -b /dev/vda ] && disk=/dev/vda && break
    sleep 0.1
done
say "disk ${disk:-none}"

# The first NIC's MAC 02:ca:AA:BB:CC:DD means the address AA.BB.CC.DD (in decimal) in a network of 24 bits.
for nic in /sys/class/net/*; do
    name=${nic##*/}
    [ "$name" = lo ] && continue
    mac=$(cat "$nic/address")
    ip link set "$name" up
    case $mac in
        02:ca:*)
            set -- $(echo "$mac" | tr : ' ')
            ip addr add "$((0x$3)).$((0x$4)).$((0x$5)).$((0x$6))/24" brd + dev "$name"
            say "nic $name $mac $((0x$3)).$((0x$4)).$((0x$5)).$((0x$6))"
            ;;
        *) say "nic $name $mac none" ;;
    esac
done

# Memory that is in use, and that no compression helps with.
[ "$fill" -gt 0 ] && head -c "${fill}m" /dev/urandom >/fill

# The witness first: the guest agent may take its time to find its port.
[ -n "$disk" ] && witness "$disk" "${zone%,*}" "${zone#*,}" "$tick" "$console" "$dirty" &

agent_port() {
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] && echo "/dev/${port##*/}" && return
    done
    return 1
}
serve_agent() {
    for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
        port=$(agent_port) && break
        sleep 0.1
    done
    [ -n "$port" ] || return
    say "agent $port"
    while :; do
        qemu-ga -m virtio-serial -p "$port" -t /var/run -f /var/run/qga.pid >/tmp/qga.log 2>&1
        sleep 1
    done
}
serve_agent &

# The power button, as a graceful shutdown presses it.
if [ -d /sys/class/input ]; then
    mkdir -p /etc/acpi/PWRF
    printf '#!/bin/sh\nexec /sbin/shutdown\n' >/etc/acpi/PWRF/00000080
    chmod +x /etc/acpi/PWRF/00000080
    acpid -d -l /tmp/acpid.log >/dev/null 2>&1 &
fi
say up
while :; do sleep 3600 & wait; done
