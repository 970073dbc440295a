#!/usr/bin/env bash
# The console's built pages are what its sources build to. Skipped, visibly, where Node is not there.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v npm >/dev/null 2>&1; then
  echo "skipped: no npm on this machine; the committed pages were not rebuilt"
  exit 0
fi
# What vite says it needs; Debian 12's own Node is older.
if ! node -e 'const [major, minor] = process.versions.node.split(".").map(Number); process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)'; then
  echo "skipped: Node $(node --version) is older than 20.19; the committed pages were not rebuilt"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r web/console "$work/console"
rm -rf "$work/console/node_modules" "$work/console/dist"
(cd "$work/console" && npm ci --silent --no-audit --no-fund && npm test --silent && npm run --silent build)
diff -r web/console/dist "$work/console/dist"
echo "the committed pages equal a rebuild"
