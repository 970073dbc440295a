# Sourced: programs from PyPI.
# NAME FILE: those of a file with their versions, in a folder that later runs find again; sets PINNED. Not to be skipped:
# where PyPI cannot be reached this fails.
pinned() {
  PINNED="${XDG_CACHE_HOME:-$HOME/.cache}/mainstay/$1-$(sha256sum "$2" | cut -c1-12)"
  [ ! -e "$PINNED/complete" ] || return 0
  rm -rf "$PINNED"
  /usr/bin/python3 -m venv "$PINNED"
  if ! "$PINNED/bin/pip" install --quiet --disable-pip-version-check -r "$2" >"$PINNED/pip.log" 2>&1; then
    tail -n 20 "$PINNED/pip.log" >&2
    echo "error: $1 could not be installed from PyPI" >&2
    exit 1
  fi
  touch "$PINNED/complete"
}
