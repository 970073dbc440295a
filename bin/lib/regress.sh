#!/usr/bin/env bash
# PostgreSQL's own regression files by psql: to a server alone (twice, to know what differs by itself) and through the
# router in both modes; outputs are compared. The files come from the source package of the distribution, which is not
# installed: MAINSTAY_REGRESS names a folder that has them already (src/test/regress). Takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/install.sh

work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT

untested() { printf 'untested: PostgreSQL'"'"'s regression files: %s\n' "$1"; exit 0; }

fetch() {
  local version sources
  have apt-get && have dpkg-query || untested "no apt-get here to fetch the source package"
  version=$(dpkg-query -W -f '${source:Version}' postgresql-15 2>/dev/null) || untested "postgresql-15 is not a package here"
  mkdir -p "$work/lists/partial" "$work/source"
  # Lists of their own: those of the machine stay as they are.
  sources="$work/sources.list"
  . /etc/os-release
  [ "${ID:-}" = debian ] || untested "only Debian's source package is known (this is ${ID:-unknown})"
  printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian %s main\n' \
    "$VERSION_CODENAME" >"$sources"
  local apt=(apt-get -qq -o "Dir::Etc::SourceList=$sources" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache::srcpkgcache=" -o "Dir::Cache::pkgcache=")
  "${apt[@]}" update >"$work/log" 2>&1 || untested "no list of sources: $(tail -n 1 "$work/log")"
  (cd "$work/source" && "${apt[@]}" source --download-only --only-source "postgresql-15=$version" >>"$work/log" 2>&1 ||
    "${apt[@]}" source --download-only --only-source postgresql-15 >>"$work/log" 2>&1) ||
    untested "no source package: $(tail -n 1 "$work/log")"
  tar -xjf "$work"/source/*.orig.tar.bz2 -C "$work/source" --wildcards '*/src/test/regress/*'
  MAINSTAY_REGRESS=$(echo "$work"/source/*/src/test/regress)
}

[ -n "${MAINSTAY_REGRESS:-}" ] || fetch
export MAINSTAY_REGRESS
printf 'files of %s\n' "$(basename "$(realpath "$MAINSTAY_REGRESS/../../..")")"
# Without what the router says of itself.
cargo test --locked --quiet -p mainstay-router --test regress -- --nocapture 2>&1 | grep -v '^{"time_us"'
