#!/usr/bin/env bash
# ci/bochs.sh PROGRAM...: runs static x86-64 programs one after the other on an emulated processor with AVX-512 (Bochs,
# model Tiger Lake), passes their output through and fails if one of them fails.
# The guest is Debian's kernel with an init script and the programs in its initial file system.
# Environment: PASS_ENV, names of the variables that the programs see; LIMIT, seconds until the guest is given up (900).
# Needs root and Debian's package mirror the first time; about 40 MB and 45 s, then 30 s a start.
set -euo pipefail

cache=${CARGO_TARGET_DIR:-target}/bochs
mkdir -p "$cache"
if ! type bochs-bin cpio genisoimage >/dev/null 2>&1 || [ ! -x /bin/busybox ] || [ ! -e /usr/lib/ISOLINUX/isolinux.bin ]; then
  apt-get update -q >/dev/null
  apt-get install -qy --no-install-recommends bochs bochs-term busybox-static cpio isolinux syslinux-common genisoimage >/dev/null
fi
if [ ! -e "$cache/vmlinuz" ]; then # downloaded only: nothing of this machine's own boot changes
  apt-get update -q >/dev/null
  kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
  (cd "$cache" && apt-get download -q -o APT::Sandbox::User=root "$kernel" >/dev/null)
  dpkg-deb --fsys-tarfile "$cache"/linux-image-*.deb | tar -x --to-stdout --wildcards './boot/vmlinuz-*' >"$cache/vmlinuz.part"
  mv "$cache/vmlinuz.part" "$cache/vmlinuz"
  rm "$cache"/linux-image-*.deb
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,dev,proc,sys,tmp,programs} "$work/cd"
cp /bin/busybox "$work/root/bin/"
for program; do
  strip -o "$work/root/programs/$(basename "$program")" "$program"
done
for name in ${PASS_ENV:-}; do
  printf 'export %s=%q\n' "$name" "${!name}"
done >"$work/root/env"
cat >"$work/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
cd /tmp; . /env
status=0
for program in /programs/*; do "$program" 2>&1 || status=1; done
echo "guest status: $status"
sleep 1; poweroff -f
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc -R 0:0 --quiet) | gzip -1 >"$work/cd/initrd"

cp "$cache/vmlinuz" /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/cd/"
# clearcpuid takes away what Bochs 2.7 gets wrong: fsrm (580), whose string moves corrupt the kernel's memory, and xsavec (323),
# xsaves (321) and pku (515), whose wrong save area sizes make the kernel switch AVX off.
cat >"$work/cd/isolinux.cfg" <<'MENU'
DEFAULT linux
LABEL linux
 KERNEL vmlinuz
 APPEND initrd=initrd console=ttyS0,115200 quiet loglevel=1 panic=1 mitigations=off clearcpuid=580,515,321,323
MENU
genisoimage -quiet -R -o "$work/cd.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table "$work/cd"

cat >"$work/bochsrc" <<BOCHS
display_library: rfb, options="timeout=0"
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=tigerlake, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1
boot: cdrom
ata0: enabled=1
ata0-master: type=cdrom, path=$work/cd.iso, status=inserted
clock: sync=none, time0=local
com1: enabled=1, mode=file, dev=$work/serial
log: /dev/null
panic: action=fatal
error: action=ignore
info: action=ignore
BOCHS
echo continue >"$work/commands" # Debian's Bochs has its debugger built in and waits for this
touch "$work/serial"
# Bochs' own exit status says nothing about the guest.
timeout "${LIMIT:-900}" bochs-bin -q -f "$work/bochsrc" -rc "$work/commands" </dev/null >"$work/log" 2>&1 || true
tr -d '\r' <"$work/serial"
grep -q '^guest status: 0' "$work/serial"
