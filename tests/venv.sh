#!/usr/bin/env bash
# Make the virtual environment $1 with the locked packages and this checkout. PYTHON names the interpreter.
set -euo pipefail

venv=$1
python=${PYTHON:-python3}
say() { printf 'venv: %s\n' "$*"; }
fail() {
    printf 'venv: %s\n' "$*" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "$python is not installed. On Debian or Ubuntu: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" -V 2>&1); Gatepost needs 3.11 or newer. Name one: make PYTHON=python3.13 ..."

# Debian's python3 comes without ensurepip, which venv needs.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "$python has no venv module. On Debian or Ubuntu, as root: apt-get install $package"
    fi
    say "installing Debian package: $package"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"
fi

say "installing Python packages into $venv: what requirements.lock names, and Gatepost from this checkout"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes --requirement requirements.lock
"$venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable .
