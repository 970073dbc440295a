# Sourced by the tests in a browser: skips them, visibly, where what they need is not there; `bin/test` installs it.

# WHAT is tested
has_browser() {
  if ! command -v npm >/dev/null 2>&1 || ! command -v "${CHROMIUM:-chromium}" >/dev/null 2>&1; then
    echo "skipped: $1 in a browser needs npm and chromium"
    exit 0
  fi
  if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)'; then
    echo "skipped: $1 in a browser needs Node 20 or newer, this is $(node --version)"
    exit 0
  fi
  [ -z "${SHOTS:-}" ] || mkdir -p "$SHOTS"
  (cd web/e2e && npm ci --silent --no-audit --no-fund)
}
