"""The only code that knows the kernel: ring, UIO, netlink, sysfs, configfs."""
