#!/usr/bin/env bash
# ci/bochs.sh MODEL PROGRAM...: runs static x86-64 programs one after the other on an emulated
# processor (Bochs 3.0), passes their output through and fails if one of them fails, with 77 if the
# emulator cannot be had. Models: arrow_lake has AVX-VNNI, tigerlake AVX-512; `bochs --help cpu`
# lists them.
#
# The guest is Debian's kernel with an init script and the programs in its initial file system.
# Environment: PASS_ENV, names of the variables that the programs see; LIMIT, seconds until the
# guest is given up (1200). The first time it builds Bochs from Debian's source, because the
# packaged one lacks AVX-VNNI and is three times slower: 3 minutes of processor time, 40 MB from
# Debian's mirror and root. Then 10 s a start. What it builds stays in target/bochs.
set -euo pipefail

model=$1
shift
cache=${CARGO_TARGET_DIR:-target}/bochs
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

install_packages() {
  apt-get update -q >/dev/null
  apt-get install -qy --no-install-recommends g++ make xz-utils bochsbios vgabios busybox-static cpio isolinux syslinux-common genisoimage >/dev/null
}
build_bochs() {
  echo "ci/bochs.sh: building Bochs" >&2
  /usr/lib/apt/apt-helper -q -o APT::Sandbox::User=root download-file \
    http://deb.debian.org/debian/pool/main/b/bochs/bochs_3.0+dfsg.orig.tar.xz "$work/bochs.tar.xz" \
    SHA256:78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b >/dev/null
  mkdir "$work/bochs"
  tar -xf "$work/bochs.tar.xz" -C "$work/bochs" --strip-components=1
  cd "$work/bochs"
  {
    ./configure --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex --enable-handlers-chaining \
      --enable-all-optimizations --enable-cdrom --with-nogui --disable-docbook --disable-plugins CFLAGS=-O2 CXXFLAGS=-O2
    make -j"$(nproc)"
  } >"$cache/build.log" 2>&1
  strip -o "$cache/bochs.part" bochs
  mv "$cache/bochs.part" "$cache/bochs"
}
download_kernel() { # downloaded only: nothing of this machine's own boot changes
  apt-get update -q >/dev/null
  kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
  cd "$work"
  apt-get download -q -o APT::Sandbox::User=root "$kernel" >/dev/null
  dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --to-stdout --wildcards './boot/vmlinuz-*' >"$cache/vmlinuz.part"
  mv "$cache/vmlinuz.part" "$cache/vmlinuz"
}
# need FUNCTION: runs it; what cannot be had is no failure of what was to be tested
need() {
  local status=0
  set +e
  (set -e; "$1")
  status=$?
  set -e
  [ $status = 0 ] || { echo "ci/bochs.sh: $1 failed" >&2; exit 77; }
}
type cpio genisoimage g++ make >/dev/null 2>&1 && [ -e /usr/share/bochs/BIOS-bochs-latest ] && [ -e /usr/share/vgabios/vgabios.bin ] &&
  [ -x /bin/busybox ] && [ -e /usr/lib/ISOLINUX/isolinux.bin ] || need install_packages
[ -x "$cache/bochs" ] || need build_bochs
[ -e "$cache/vmlinuz" ] || need download_kernel

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
# clearcpuid takes away what Bochs promises and does not keep: fsrm (580), whose string moves
# corrupt the kernel's memory, and xsavec (323), xsaves (321) and pku (515), whose wrong save area
# sizes make the kernel switch AVX off. no5lvl, ibt: features that only cost time.
cat >"$work/cd/isolinux.cfg" <<'MENU'
DEFAULT linux
LABEL linux
 KERNEL vmlinuz
 APPEND initrd=initrd console=ttyS0,115200 quiet loglevel=1 panic=1 no5lvl ibt=off mitigations=off clearcpuid=580,515,321,323
MENU
genisoimage -quiet -R -o "$work/cd.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table "$work/cd"

cat >"$work/bochsrc" <<BOCHS
display_library: nogui
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
cpu: model=$model, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1
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
touch "$work/serial"
# Bochs' own exit status says nothing about the guest.
timeout "${LIMIT:-1200}" "$cache/bochs" -q -f "$work/bochsrc" </dev/null >"$work/log" 2>&1 || true
tr -d '\r' <"$work/serial"
grep -q '^guest status: 0' "$work/serial"
