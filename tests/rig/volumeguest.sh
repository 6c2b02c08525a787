#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Process 1 of a Linux guest that watches its disks: it says on the serial port which come, how large they are, when that changes, and
# which go; to each that it may write to it writes a rising number all the time, 1024 bytes from its start.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev 2>/dev/null
$bb --install -s /bin
export PATH=/bin
say() { echo "$*" >/dev/ttyS0; }
for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || say "module $module failed"
done
say up
number=0
known=
while :; do
    number=$((number + 1))
    now=
    for directory in /sys/block/vd* /sys/block/sd*; do
        [ -e "$directory/size" ] || continue
        name=${directory##*/}
        now="$now $name"
        size=$(cat "$directory/size" 2>/dev/null) || continue
        eval old=\$size_$name
        if [ "$size" != "$old" ]; then
            say "disk $name serial $(cat "$directory/serial" 2>/dev/null) bytes $((size * 512)) ro $(cat "$directory/ro")"
            eval size_$name=$size
        fi
        [ "$(cat "$directory/ro" 2>/dev/null)" = 0 ] && [ "$size" != 0 ] || continue
        if printf 'written %08d\n' $number | dd of=/dev/$name bs=512 seek=2 count=1 conv=sync,fsync,notrunc 2>/dev/null; then
            [ $((number % 5)) = 0 ] && say "wrote $name $number"
        elif [ -e "$directory/size" ]; then
            say "failed $name $number"
        fi
    done
    for name in $known; do
        case " $now " in *" $name "*) ;; *) say "gone $name"; eval size_$name= ;; esac
    done
    known=$now
    sleep 0.1
done
