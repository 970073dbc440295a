#!/usr/bin/env bash
# The users site's committed pages are what its sources build to. Skipped, visibly, where Node is not there.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v npm >/dev/null 2>&1; then
  echo "skipped: no npm on this machine; the users site was not rebuilt"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/web" "$work/apps/users"
cp -r web/users "$work/web/users"
rm -rf "$work/web/users/node_modules"
(cd "$work/web/users" && npm ci --silent --no-audit --no-fund && npm test --silent && npm run --silent build)
diff -r apps/users/site "$work/apps/users/site"
echo "the committed users site equals a rebuild"
bytes=$(cat apps/users/site/index.html apps/users/site/assets/*.js apps/users/site/assets/*.css | gzip -9 | wc -c)
echo "first load: $bytes bytes gzip"
[ "$bytes" -le 40000 ] || { echo "failed: more than 40000 bytes gzip"; exit 1; }
