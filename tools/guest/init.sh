#!/bin/sh
# The guest's first process: load modules, put the host's files under a layer of memory, hand over to the session.
# Runs on busybox in the initramfs; whatever it prints is in the run's console.log.

export PATH=/bin

die() {
    echo "txtcmu: guest init failed: $*"
    poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

mkdir -p /etc/target                            # where target_core_mod looks when it is loaded
while read -r module; do
    insmod "/modules/$module" || echo "txtcmu: $module does not load"
done </modules/order

# The host's root, read only. Nothing but this guest's layer changes under it, so everything may be cached.
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose hostroot /host || die "host root"
case " $(cat /proc/cmdline) " in
    *" txtcmu.probe "*)
        echo "txtcmu: guest booted"
        poweroff -f
        ;;
esac
mount -t tmpfs -o size=75% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root || die "overlay"

mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/dev/virtio-ports
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
ln -s /proc/self/fd /root/dev/fd
ln -s /proc/self/fd/0 /root/dev/stdin
ln -s /proc/self/fd/1 /root/dev/stdout
ln -s /proc/self/fd/2 /root/dev/stderr
mount -t configfs configfs /root/sys/kernel/config || die "configfs"
mount -t tmpfs run /root/run                    # the host's sockets and pid files mean nothing here
mkdir -p /root/run/share /root/run/lock /root/etc/target /root/var/target/pr
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap share /root/run/share || die "share"

# There is no udev: name the ports as it would.
for port in /root/sys/class/virtio-ports/*; do
    [ -e "$port/name" ] && ln -s "../${port##*/}" "/root/dev/virtio-ports/$(cat "$port/name")"
done

hostname guest
echo "127.0.0.1 localhost guest" >/root/etc/hosts
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up && route add default gw 10.0.2.2

exec switch_root /root /bin/sh /run/share/session || die "session"
