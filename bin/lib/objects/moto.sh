# Sourced: moto from PyPI, in versions of requirements.txt, in a folder that later runs find again; sets MOTO.
install_moto() {
  local pins=bin/lib/objects/requirements.txt
  MOTO="${XDG_CACHE_HOME:-$HOME/.cache}/mainstay/objects-$(sha256sum "$pins" | cut -c1-12)"
  [ ! -e "$MOTO/complete" ] || return 0
  rm -rf "$MOTO"
  /usr/bin/python3 -m venv "$MOTO"
  if ! "$MOTO/bin/pip" install --quiet --disable-pip-version-check -r "$pins" >"$MOTO/pip.log" 2>&1; then
    tail -n 20 "$MOTO/pip.log" >&2
    echo "error: moto could not be installed from PyPI" >&2
    exit 1
  fi
  touch "$MOTO/complete"
}
