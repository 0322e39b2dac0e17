#!/usr/bin/env bash
# Run a command of the project on a processor that this machine has not: one with AVX-512 and AVX512-BF16, emulated by
# Bochs. By default the tests of what depends on the processor; the operators for AVX-512 are compiled first.
#     tests/emulated/run.sh [COMMAND [ARGUMENT...]]        in a copy of the working tree; ends with the command's status
# Needs .venv (make install) and, on Debian 13: bochs bochs-term bochsbios vgabios linux-image-amd64 isolinux
# syslinux-common genisoimage busybox-static cpio e2fsprogs. Linux 6.1 does not start in Bochs 3.0, 6.12 does.
# It is slow, some 45 million instructions a second: a minute and a half to start, five minutes to import torch.
# Settings: CPU (one of `bochs --help cpu`), KERNEL (a folder with boot/ and usr/lib/modules/), WORK (a folder, 2 GB; delete
# it when .venv has changed), BOCHS, MODULE (a kernel module to load before the command), PRELOAD (a library for the command).
set -euo pipefail

CPU=${CPU:-sapphire_rapids}
KERNEL=${KERNEL:-/}
WORK=$(realpath -m "${WORK:-${TMPDIR:-/tmp}/ferry-emulated}")
BOCHS=${BOCHS:-bochs}
BXSHARE=${BXSHARE:-/usr/share/bochs}
ISOLINUX=${ISOLINUX:-/usr/lib/ISOLINUX/isolinux.bin}
LDLINUX=${LDLINUX:-/usr/lib/syslinux/modules/bios/ldlinux.c32}
BUSYBOX=${BUSYBOX:-/bin/busybox}
MODULES="crc16 mbcache jbd2 crc32c_generic ext4 scsi_common scsi_mod sd_mod libata ata_piix"
TESTS="python -m pytest -q -p no:cacheprovider -p no:xdist -o addopts= tests/model/test_model_native.py
    tests/model/test_model_precision.py tests/model/test_model_int8.py"

main() {
    cd "$(dirname "$0")/../.."
    for tool in .venv/bin/python "$BOCHS" mke2fs genisoimage cpio "$BUSYBOX"; do
        command -v "$tool" >/dev/null || { echo "there is no $tool; see the head of $0 for what it needs" >&2; exit 1; }
    done
    [ $# -gt 0 ] || read -ra COMMAND -d '' <<<"$TESTS" || true
    [ $# -eq 0 ] || COMMAND=("$@")
    mkdir -p "$WORK"
    .venv/bin/python -m model.native.build --all
    [ -e "$WORK/root.img" ] || root_image
    job_image
    boot_image
    emulate
}

# Python, the virtual environment and the libraries that they load: the same paths as here.
root_image() {
    local root=$WORK/root base library
    rm -rf "$root" && mkdir -p "$root"/{bin,dev,etc,job,lib64,proc,run,sys,tmp}
    base=$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')
    tar c --exclude=site-packages --exclude=test --exclude=__pycache__ --exclude='*.a' -C / \
        "${base#/}/bin" "${base#/}/lib/python$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" |
        tar x -C "$root"
    tar c --exclude=torch/include --exclude=__pycache__ --exclude='*mypyc*' -C / "${PWD#/}/.venv" | tar x -C "$root"
    cp "$BUSYBOX" "$root/bin/busybox" && ln -s busybox "$root/bin/sh"
    { ldd .venv/bin/python; find "$root" -name '*.so*' -type f -exec ldd {} + 2>/dev/null; } |
        grep -oE '(=> |^\s+)/[^ ]+' | grep -oE '/[^ ]+' | sort -u | while read -r library; do
        [ -e "$root$library" ] || case $library in "$root"/*) continue ;; esac
        mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library"
    done
    disk "$root" "$WORK/root.img"
}

# The working tree, with what git does not know yet, and the command.
job_image() {
    local job=$WORK/job
    rm -rf "$job" && mkdir -p "$job/tree"
    git ls-files -z --cached --others --exclude-standard | grep -zv '^app/checkpoints/' | tar c --null -T - | tar x -C "$job/tree"
    cp model/native/*.so "$job/tree/model/native/"
    [ -z "${MODULE:-}" ] || cp "$MODULE" "$job/module.ko"
    [ -z "${PRELOAD:-}" ] || cp "$PRELOAD" "$job/preload.so"
    {
        echo "export HOME=/tmp PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 PATH=$PWD/.venv/bin:/bin"
        echo 'cp -r /job/tree /tmp/tree; cd /tmp/tree'
        [ -z "${MODULE:-}" ] || echo 'busybox insmod /job/module.ko'
        [ -z "${PRELOAD:-}" ] || echo 'export LD_PRELOAD=/job/preload.so'
        printf '%q ' "${COMMAND[@]}"
    } >"$job/command"
    disk "$job" "$WORK/job.img"
}

disk() { # FOLDER IMAGE
    rm -f "$2.part"
    mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -d "$1" "$2.part" "$(($(du -sm "$1" | cut -f1) * 6 / 5 + 64))M"
    mv "$2.part" "$2" # an interrupted run leaves none that looks finished
}

# An initial file system with the modules for the two disks, and a boot loader.
boot_image() {
    local first=$WORK/first iso=$WORK/iso module found
    rm -rf "$first" "$iso" && mkdir -p "$first"/{bin,dev,m,new,proc,sys} "$iso/isolinux"
    cp "$BUSYBOX" "$first/bin/busybox" && ln -s busybox "$first/bin/sh"
    for module in $MODULES; do
        found=$(find "$KERNEL/usr/lib/modules" -name "$module.ko*" | sort | tail -1)
        [ -n "$found" ] || { echo "no $module.ko below $KERNEL/usr/lib/modules: install Linux, or name it with KERNEL" >&2; exit 1; }
        case $found in
            *.xz) xz -dc "$found" ;;
            *) cat "$found" ;;
        esac >"$first/m/$module.ko"
    done
    cat >"$first/init" <<EOF
#!/bin/sh
busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys; busybox mount -t devtmpfs dev /dev
for m in $MODULES; do busybox insmod /m/\$m.ko; done
while [ ! -e /dev/sdb ]; do busybox sleep 1; done
busybox mount -t ext4 -o ro /dev/sda /new && busybox mount -t ext4 -o ro /dev/sdb /new/job
busybox mount -t tmpfs t /new/tmp
for f in proc sys dev; do busybox mount --move /\$f /new/\$f; done
busybox mkdir -p /new/dev/shm
exec busybox switch_root /new /bin/sh -c 'busybox ifconfig lo 127.0.0.1 up; sh /job/command 2>&1; echo "emulated: status \$?"; busybox sleep 9999'
EOF
    chmod +x "$first/init"
    (cd "$first" && find . | cpio --quiet -o -H newc) >"$iso/first.img"
    cp "$(find "$KERNEL/boot" -name 'vmlinuz-*' | sort | tail -1)" "$iso/vmlinuz"
    cp "$ISOLINUX" "$LDLINUX" "$iso/isolinux/"
    # amx_tile: Bochs has AMX, but not the feature (XFD) without which Linux refuses the state of its tiles.
    cat >"$iso/isolinux/isolinux.cfg" <<EOF
default ferry
label ferry
 kernel /vmlinuz
 append initrd=/first.img console=ttyS0 quiet nokaslr tsc=reliable panic=-1 mitigations=off nowatchdog nohpet acpi=off clearcpuid=amx_tile
EOF
    genisoimage -quiet -o "$WORK/boot.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
        -boot-load-size 4 -boot-info-table "$iso"
}

emulate() {
    cd "$WORK"
    rm -f ./*.lock serial.txt && touch serial.txt
    cat >bochsrc <<EOF
config_interface: textconfig
display_library: rfb, options="timeout=60"
memory: guest=2048, host=2048
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
cpu: model=$CPU, count=1, ips=50000000, ignore_bad_msrs=1
ata0-master: type=disk, path=root.img, mode=flat
ata0-slave: type=disk, path=job.img, mode=flat
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.log
EOF
    "$BOCHS" -q -f bochsrc >bochs.out 2>&1 </dev/null &
    bochs=$!
    "$OLDPWD/.venv/bin/python" -c "$VIEWER" &
    viewer=$!
    trap 'kill -9 $bochs $viewer' EXIT # Bochs does not end by any other signal
    while kill -0 $bochs 2>/dev/null && ! grep -q '^emulated: status' serial.txt; do sleep 2; done &
    tail -n +1 -f --pid=$! serial.txt
    grep -q '^emulated: status' serial.txt || { tail -5 bochs.out >&2 && exit 1; }
    exit "$(sed -n 's/^emulated: status \([0-9]*\).*/\1/p' serial.txt)"
}

# Bochs wants somebody to look at its screen before it starts.
VIEWER='
import socket, time
while True:
    try:
        with socket.create_connection(("127.0.0.1", 5900)) as screen:
            screen.recv(12), screen.sendall(b"RFB 003.003\n"), screen.recv(4), screen.sendall(b"\1")
            while screen.recv(65536):
                pass
    except OSError:
        pass
    time.sleep(0.1)
'

main "$@"
