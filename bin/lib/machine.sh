#!/usr/bin/env bash
# Optional: what needs a machine of its own. Boots Debian's own kernel and systemd in a virtual machine, installs and
# runs by bin/demo there (with the programs that are built here: emulated, a compiler needs hours), installs the
# service, also as an ordinary user, looks at control groups v2 with limits in force, kills, upgrades PostgreSQL's
# package, reboots. Where it cannot run it says "untested" and why.
#   bin/lib/machine.sh          needs root, qemu-system-x86_64, debootstrap, and built programs
# MACHINE_CACHE=DIR keeps the base system between runs; MACHINE_ACCEL=kvm is faster where it works.
set -euo pipefail
cd "$(dirname "$0")/../.."
MAINSTAY="${MAINSTAY:-${CARGO_TARGET_DIR:-target}/release/mainstay}"

untested() { printf 'untested: the service, reboot and control groups v2 in a virtual machine: %s\n' "$1"; exit 0; }

[ "$(id -u)" = 0 ] || untested "needs root"
for program in qemu-system-x86_64 debootstrap mkfs.ext4; do
  command -v "$program" >/dev/null || untested "$program is not installed (apt-get install --no-install-recommends qemu-system-x86 debootstrap e2fsprogs)"
done
[ "$(uname -m)" = x86_64 ] || untested "only x86_64 is prepared"
for program in "$MAINSTAY" "$(dirname "$MAINSTAY")/users"; do
  [ -x "$program" ] || { echo "error: build first (bin/build): there is no $program" >&2; exit 2; }
done

began=$SECONDS
step() { printf '== %s (after %d s)\n' "$1" $((SECONDS - began)); }
cache="${MACHINE_CACHE:-/var/cache/mainstay-machine}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

base="$cache/bookworm"
if [ ! -e "$base/complete-2" ]; then
  step "Debian's base system"
  rm -rf "$base"
  mkdir -p "$base"
  debootstrap --variant=minbase \
    --include=systemd-sysv,libpam-systemd,dbus,dbus-user-session,linux-image-cloud-amd64,initramfs-tools,iproute2,procps,ca-certificates,curl,python3 \
    bookworm "$base/root" >"$base/log" 2>&1 || { tail -n 5 "$base/log"; untested "debootstrap failed: no Debian mirror is reached"; }
  touch "$base/complete-2"
fi

step "image"
cp -a "$base/root" "$work/root"
root="$work/root"
rm -rf "$root"/var/cache/apt/archives/*.deb
mkdir -p "$root/opt/mainstay/target/release" "$root/opt/machine" "$root/srv/shop" "$root/srv/built"
cp -r bin docs apps README.md "$root/opt/mainstay/"
cp "$MAINSTAY" "$(dirname "$MAINSTAY")/users" "$root/opt/mainstay/target/release/"
cp "$MAINSTAY" "$root/srv/built/mainstay"
cp bin/lib/machine/inside.sh bin/lib/machine/shop.py "$root/opt/machine/"
cp bin/lib/machine/shop.py bin/lib/machine/mainstay.toml "$root/srv/shop/"
cp bin/lib/machine/inside.service "$root/etc/systemd/system/"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../inside.service "$root/etc/systemd/system/multi-user.target.wants/inside.service"
# A login prompt would hang up the line that the checks talk on.
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
printf '[Match]\nName=e*\n\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/10-all.network"
ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
echo machine >"$root/etc/hostname"
printf '/dev/vda / ext4 rw 0 1\n' >"$root/etc/fstab"
cp "$root"/boot/vmlinuz-* "$work/kernel"
cp "$root"/boot/initrd.img-* "$work/initrd"
truncate -s 8G "$work/disk"
mkfs.ext4 -q -d "$root" "$work/disk"
rm -rf "$root"

step "virtual machine"
# Some /dev/kvm, in a virtual machine itself, stop at the first rare instruction: it has to be asked for.
accelerator="${MACHINE_ACCEL:-tcg,thread=multi}"
echo "   $accelerator"
: >"$work/serial"
timeout "${MACHINE_TIMEOUT:-3000}" qemu-system-x86_64 -accel "$accelerator" -cpu max -smp 2 -m 2048 -nographic -no-user-config -nodefaults \
  -kernel "$work/kernel" -initrd "$work/initrd" \
  -append "root=/dev/vda rw console=ttyS0 quiet loglevel=3 systemd.show_status=false panic=-1" \
  -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" \
  -netdev user,id=net -device virtio-net-pci,netdev=net -device virtio-rng-pci \
  -serial "file:$work/serial" -monitor none </dev/null >"$work/qemu" 2>&1 &
qemu=$!
trap 'kill "$qemu" 2>/dev/null || true; rm -rf "$work"' EXIT
# What the machine says, as it says it.
tail -n +1 --pid="$qemu" -f "$work/serial" 2>/dev/null | sed -u 's:\r::g' | grep --line-buffered -a '^\(==\|  \)' || true
wait "$qemu" || { cat "$work/qemu"; tail -n 40 "$work/serial"; echo "the virtual machine did not end by itself"; exit 1; }
if ! tr -d '\r' <"$work/serial" | grep -ca '^== machine passed' >/dev/null; then
  tail -n 100 "$work/serial" | tr -d '\r'
  echo "the machine's checks failed"
  exit 1
fi
printf 'passed in %d s (%s)\n' $((SECONDS - began)) "$accelerator"
