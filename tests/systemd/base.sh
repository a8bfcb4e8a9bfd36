#!/usr/bin/env bash
# Make what tests/systemd boots: a minimal Debian in $1, with the wheels that requirements.lock names in /opt/gatepost.
# Idempotent: what was made from the same lock is left alone. VENV (default .venv) has pip to download them with.
set -euo pipefail

root=$1
venv=${VENV:-.venv}
suite=bookworm
lock=$(sha256sum requirements.lock tests/systemd/base.sh | sha256sum | cut -c1-32)
[ "$(cat "$root/.gatepost-lock" 2>/dev/null)" != "$lock" ] || exit 0

if [ ! -e "$root/usr/lib/systemd/systemd" ]; then
    rm -rf "$root"
    mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,python3,python3-venv "$suite" "$root"
fi
rm -rf "$root/opt/gatepost" "$root/opt/wheels" "$root/.gatepost-lock"
python=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
machine=$(uname -m)
sed -nE 's/^([a-z0-9._-]+==[^ ;\\]+).*/\1/p' requirements.lock >"$root/opt/constraints"
"$venv/bin/python" -m pip --quiet --disable-pip-version-check wheel --no-deps --no-build-isolation \
    --wheel-dir "$root/opt/wheels" .
"$venv/bin/python" -m pip --quiet --disable-pip-version-check download --only-binary=:all: \
    --python-version "$python" --implementation cp --constraint "$root/opt/constraints" --dest "$root/opt/wheels" \
    --platform "manylinux2014_$machine" --platform "manylinux_2_28_$machine" --platform "manylinux_2_34_$machine" \
    "$root"/opt/wheels/gatepost-*.whl
chroot "$root" python3 -m venv /opt/gatepost
chroot "$root" sh -c '/opt/gatepost/bin/pip --quiet --disable-pip-version-check install --no-index /opt/wheels/*.whl'
chroot "$root" /opt/gatepost/bin/pip --quiet --disable-pip-version-check uninstall --yes gatepost
rm -rf "$root/opt/wheels" "$root/opt/constraints"
echo "$lock" >"$root/.gatepost-lock"
