#!/usr/bin/env bash
# Install the peers that bench/ measures Gatepost against: Debian's nginx with its mail module, and email-oauth2-proxy
# from PyPI in an environment of its own. Dovecot is there already, by tests/lab/install.sh. Idempotent.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
PACKAGES="nginx libnginx-mod-mail"
PROXY="emailproxy==2026.7.3" # pinned, so that figures of two machines are of one program

say() { printf 'bench: %s\n' "$*"; }
fail() {
    printf 'bench: %s\n' "$*" >&2
    exit 1
}

policy=/usr/sbin/policy-rc.d
missing=()
for package in $PACKAGES; do
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}. Run as root: apt-get install --no-install-recommends ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    # Debian starts what it installs; exit 101 from this file is its documented "do not".
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f $policy' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ ! -f "$here/.peers/.$PROXY" ]; then
    say "installing $PROXY"
    "$python" -m venv "$here/.peers"
    "$here/.peers/bin/python" -m pip --quiet --disable-pip-version-check install "$PROXY"
    touch "$here/.peers/.$PROXY"
fi
say "ready"
