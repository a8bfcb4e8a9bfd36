#!/usr/bin/env bash
# Build the Debian package from a wheel: build.sh WHEEL DIRECTORY. From the root of the repository; no root needed.
#
# Gatepost and its locked packages live in an environment of their own, /usr/lib/gatepost, on the distribution's python3.
# It is made where it is built and then told where it will be: launchers and byte code name the final path.
set -euo pipefail

wheel=$1
out=$2
venv=${VENV:-.venv}
python=/usr/bin/python3 # the distribution's; the one in PATH may be another, which the package could not depend on
here=config/debian
fail() { printf 'deb: %s\n' "$*" >&2; exit 1; }

command -v dpkg-deb >/dev/null || fail "no dpkg-deb: build on Debian or Ubuntu"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than 3.11"
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
# 0.2.0.dev1 comes before 0.2.0, and "~" is how dpkg says so.
version=$("$venv/bin/python" -c 'import proxy; print(proxy.__version__)' | sed -E 's/\.?(dev|a|b|rc)/~\1/')
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
home=/usr/lib/gatepost
mkdir -p "$root$home" "$root/DEBIAN"

# --- The environment -------------------------------------------------------------------------------------------------
"$python" -m venv --without-pip "$root$home"
"$venv/bin/python" $here/needed.py >"$work/needed.lock"
# pip, and not uv: it heeds the machine's own index and mirrors.
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check --python "$root$home/bin/python")
install=("${pip[@]}" install --no-compile)
"${install[@]}" --require-hashes --no-deps --only-binary :all: --requirement "$work/needed.lock"
"${install[@]}" --no-deps "$wheel"
"${pip[@]}" check || fail "the packages do not fit together"

find "$root$home/bin" -type f ! -name gatepost -delete
find "$root$home/bin" -type l ! -name python ! -name python3 -delete
mv "$root$home/share/man" "$work/man"
rm -rf "$root$home/share" "$root$home/include"
# The launcher that was made names its interpreter by where it was installed.
printf '#!%s/bin/python -IP\nimport sys\n\nfrom proxy.__main__ import main\n\nsys.exit(main())\n' "$home" \
    >"$root$home/bin/gatepost"
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.%s\n' "$minor" >"$root$home/pyvenv.cfg"
# Where it was built is nobody's business, and no longer true.
find "$root$home" \( -name RECORD -o -name direct_url.json -o -name uv_cache.json -o -name REQUESTED -o -name __pycache__ \) \
    -prune -exec rm -rf {} +
"$root$home/bin/python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" -p / "$root$home/lib" >/dev/null
! grep -rIl "$work" "$root$home" || fail "these name the place where they were built"

# --- What the system looks for elsewhere -------------------------------------------------------------------------------
put() { install -D -m 644 "$1" "$root$2"; }
mkdir -p "$root/usr/bin"
ln -s ../lib/gatepost/bin/gatepost "$root/usr/bin/gatepost"
for unit in systemd/*.service systemd/*.socket; do
    put "$unit" "/usr/lib/systemd/system/$(basename "$unit")"
    sed -i 's|/usr/local/bin/gatepost|/usr/bin/gatepost|' "$root/usr/lib/systemd/system/$(basename "$unit")"
done
put systemd/gatepost.sysusers.conf /usr/lib/sysusers.d/gatepost.conf
put systemd/gatepost.tmpfiles.conf /usr/lib/tmpfiles.d/gatepost.conf
for page in "$work"/man/man*/*; do
    put "$page" "/usr/share/man/$(basename "$(dirname "$page")")/$(basename "$page")"
    gzip -9n "$root/usr/share/man/$(basename "$(dirname "$page")")/$(basename "$page")"
done
gatepost() { "$root$home/bin/python" -IP -m proxy "$@"; }
gatepost completion bash >"$work/bash"
gatepost completion zsh >"$work/zsh"
gatepost completion fish >"$work/fish"
put "$work/bash" /usr/share/bash-completion/completions/gatepost
put "$work/zsh" /usr/share/zsh/vendor-completions/_gatepost
put "$work/fish" /usr/share/fish/vendor_completions.d/gatepost.fish
doc=/usr/share/doc/gatepost
put $here/copyright $doc/copyright
for page in README.md SECURITY.md ARCHITECTURE.md; do put "$page" "$doc/$page"; done
(cd docs && find . -maxdepth 1 -name '*.md' -exec install -D -m 644 {} "$root$doc/docs/{}" \;)
put CHANGELOG.md $doc/changelog
gzip -9n "$root$doc/changelog"
(cd config && find . -type f ! -path './debian/*' ! -path './providers/*' -exec install -D -m 644 {} "$root$doc/examples/{}" \;)

# --- The package ---------------------------------------------------------------------------------------------------------
size=$(du -k -s --apparent-size "$root/usr" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" \
    -e "s/@PYTHON@/3.$minor/" -e "s/@NEXT@/3.$((minor + 1))/" $here/control >"$root/DEBIAN/control"
for script in postinst prerm postrm; do install -m 755 "$here/$script" "$root/DEBIAN/$script"; done
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
package=$out/gatepost_${version}_${architecture}.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
printf '%s\n' "$package"
