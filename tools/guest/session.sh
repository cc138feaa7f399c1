#!/bin/sh
# The guest's process 1 once the host's files are its root: session.sh COMMAND [ARGUMENT...]
# Runs the command, sends its output through two virtio ports, and ends both with a mark that carries its exit status.
# From the environment: TXTCMU_MODULES, the directory for /lib/modules; TXTCMU_MARK, the mark; TXTCMU_TTY, which
# gives the command a terminal, of so many rows and columns.

mkdir -p "/lib/modules/$(uname -r)"
mount --bind "$TXTCMU_MODULES" "/lib/modules/$(uname -r)"
echo 60 >/proc/sys/kernel/hung_task_timeout_secs  # a task that hangs is told of before a test ends; to start a daemon takes up to 30 s
echo -1 >/proc/sys/kernel/hung_task_warnings
dmesg --console-level 8                         # from here on the console shows every message of the kernel

# A port can be open only once, so the descriptors are opened here and stay open while leftovers of the command live.
exec 3>/dev/virtio-ports/stdout 4>/dev/virtio-ports/stderr
mark=$TXTCMU_MARK tty=${TXTCMU_TTY-}
unset TXTCMU_MODULES TXTCMU_MARK TXTCMU_TTY

if [ -n "$tty" ]; then
    # shellcheck disable=SC2086 # two words
    stty rows ${tty% *} cols ${tty#* } </dev/hvc0
    setsid --ctty --wait "$@" </dev/hvc0 >/dev/hvc0 2>&1 3>&- 4>&-
else
    "$@" </dev/null >&3 2>&4 3>&- 4>&-
fi
status=$?

sync
printf '\0%s %d\n' "$mark" "$status" >&3
printf '\0%s %d\n' "$mark" "$status" >&4
while :; do sleep 1000; done                    # the host reads to the marks, then ends the machine
