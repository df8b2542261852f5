#!/bin/sh
# Makes a machine out of fresh namespaces and starts its systemd. $1: an empty folder; $2: a folder that is shared with
# the tests, at /mnt/test in the box; further arguments: OUTSIDE:INSIDE folders that are bound read-only.
# The box sees an overlay on this machine's own root: it has its programs, and changes nothing of it.
set -eu
work=$1 shared=$2
shift 2

mount -t tmpfs -o mode=755 box "$work"
mkdir "$work/changes" "$work/overlay" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/changes,workdir=$work/overlay" box "$work/root"
cd "$work/root"
mkdir -p proc sys dev run tmp mnt/test outside

# The kernel's settings belong to the machine outside: they can be read here, not written.
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup

mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for name in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    numbers=${name#*:}
    mknod -m 666 "dev/${name%%:*}" c "${numbers%:*}" "${numbers#*:}"
done
for folder in dev/shm tmp; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mount -t tmpfs -o mode=755 tmpfs run

mount --bind "$shared" mnt/test
for bind in "$@"; do
    mkdir -p ".${bind#*:}"
    mount --bind "${bind%%:*}" ".${bind#*:}"
    mount -o remount,bind,ro ".${bind#*:}"
done

# Nothing that is enabled outside starts here, and nothing that would touch hardware.
rm -rf etc/systemd/system/*.wants etc/machine-id etc/watcherd srv/watcherd* var/lib/watcherd* var/log/journal
: > etc/machine-id
for unit in systemd-udevd systemd-udev-trigger systemd-modules-load systemd-networkd systemd-resolved \
    systemd-timesyncd systemd-logind systemd-homed console-getty; do
    ln -sf /dev/null "etc/systemd/system/$unit.service"
done
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n' > etc/systemd/journald.conf.d/box.conf

mount --make-rprivate /
pivot_root . outside
umount -l /outside
mount --make-rshared / # as on any machine: what is mounted later reaches the services
cd /
exec env -i container=box PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio \
    /lib/systemd/systemd --unit=multi-user.target --show-status=no
