#!/usr/bin/env bash
# A certificate of a public authority, from Let's Encrypt's test server (pebble): ordered, renewed under load, kept while
# the directory is away and while the control plane is killed. Certificates count for 60 seconds here.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
HOST=shop.example.test
work_folder
begin_stack "$work/shop"
helpers=()
stop_clients() {
  local pid
  for pid in "${helpers[@]}"; do kill "$pid" 2>/dev/null || true; done
}
helper() { "$@" >>"$SCRATCH/helpers" 2>&1 & helpers+=($!); }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
read -r https http console acme management dns dns_management door <<<"$(free_ports 8)"

say "an authority"
# Its own certificate, from an authority of this test's own.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=test" \
  -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" \
  -keyout "$work/acme.key" -out "$work/acme.csr" 2>/dev/null
openssl x509 -req -in "$work/acme.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
  -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1") -out "$work/acme.pem" 2>/dev/null
cat >"$work/pebble.json" <<END
{ "pebble": { "listenAddress": "127.0.0.1:$acme", "managementListenAddress": "127.0.0.1:$management",
  "certificate": "$work/acme.pem", "privateKey": "$work/acme.key", "httpPort": $http, "tlsPort": $https,
  "externalAccountBindingRequired": false, "certificateValidityPeriod": 60 } }
END
helper pebble-challtestsrv -dns01 "127.0.0.1:$dns" -management "127.0.0.1:$dns_management" \
  -http01 "" -https01 "" -tlsalpn01 "" -defaultIPv4 127.0.0.1 -defaultIPv6 ""
PEBBLE_VA_NOSLEEP=1 helper pebble -config "$work/pebble.json" -dnsserver "127.0.0.1:$dns"
# The directory is reached through a door that can be closed.
open_door() { helper /usr/bin/python3 bin/lib/acme.py forward "$door" "$acme"; door_pid=$!; }
open_door
until_so "the authority listens" listens "$management"
until_so "the way to it is open" listens "$door"
curl --silent --show-error --cacert "$work/ca.pem" "https://localhost:$management/roots/0" >"$work/root.pem"

say "up"
mkdir -p "$work/shop/public"
echo "<h1>shop</h1>" >"$work/shop/public/index.html"
cat >"$work/shop/mainstay.toml" <<END
stack = "shop"
[edge]
host = "$HOST"
aliases = ["www.$HOST"]
https_port = $https
http_port = $http
[edge.tls]
mode = "acme"
directory = "https://localhost:$door/dir"
roots = "$work/ca.pem"
email = "ops@example.com"
[site.public]
dir = "public"
[observe]
enabled = false
[console]
port = $console
END
chmod -R go+rX "$work/shop"
come_up
signed() {
  curl --silent --fail --cacert "$work/root.pem" --resolve "$1:$https:127.0.0.1" "https://$1:$https/" >/dev/null
}
# As long as it takes when the first order fails and waits two minutes for the next.
PATIENCE=180
until_so "the site has a certificate of the authority" signed "$HOST"
until_so "and so has its other name" signed "www.$HOST"
is_told() { [ "$(told "$1" "$2")" -ge "$3" ]; }
until_so "one order was for both" is_told CertificateIssued "$HOST, www.$HOST" 1
folder="$STATE/shop/development/acme"
same "its folder is the owner's alone" "$(stat -c %a "$folder")" 700
same "its files are, too" "$(stat -c %a "$folder"/*.json | sort -u)" 600
if events | grep -c "PRIVATE KEY" >/dev/null; then fail "a key in the events"; fi
ok "no event tells a key"
curl --silent "http://127.0.0.1:$http/.well-known/acme-challenge/x" -H "Host: $HOST" -o /dev/null -w '%{http_code}' >"$SCRATCH/code"
same "nothing is shown to who asks later" "$(cat "$SCRATCH/code")" 308

say "renewed under load, and the control plane killed"
helper /usr/bin/python3 bin/lib/acme.py load "$HOST" "$https" "$work/root.pem" "$SCRATCH/load"
load=$!
until_so "a second certificate was ordered in time" is_told CertificateIssued "$HOST" 2
old=$(pid_of control)
kill -KILL "$old"
is_another() { local pid; pid=$(pid_of control); [ "$pid" != "$old" ] && [ "$pid" != None ] && is_ready; }
until_so "another control plane is there" is_another

say "the directory is away"
kill -KILL "$door_pid"
until_so "an order that failed is told" is_told CertificateFailed "no connection to localhost" 1
if kill -0 "$load" 2>/dev/null && signed "$HOST"; then ok "the certificate before still counts"; else fail "no certificate"; fi
open_door
until_so "a third certificate, once it is back" is_told CertificateIssued "$HOST" 3

say "what clients saw"
until_so "the third one is served" signed "$HOST"
# Once more the client's turn.
sleep 2
kill -TERM "$load"
wait "$load" || true
value "'%d handshakes, %d certificates' % (it['handshakes'], len(it['serials']))" <"$SCRATCH/load"
value "'\n'.join(it['failures'][:5])" <"$SCRATCH/load"
same "no handshake failed" "$(value "len(it['failures'])" <"$SCRATCH/load")" 0
same "the client met all three" "$(value "len(it['serials']) >= 3" <"$SCRATCH/load")" True

say "what the edge promises"
ms edge test --json >"$SCRATCH/promises" || fail "a promise is broken: $(cat "$SCRATCH/promises")"
same "none is broken" "$(value "it['broken']" <"$SCRATCH/promises")" 0
same "and there are many" "$(value "it['kept'] > 12" <"$SCRATCH/promises")" True

say "a route by hand, and live requests"
status_of() {
  curl --silent --cacert "$work/root.pem" --resolve "$HOST:$https:127.0.0.1" -o /dev/null -w '%{http_code}' \
    "https://$HOST:$https/${1:-}"
}
"$MAINSTAY" --state "$STATE" --file "$STACK" tap '/*' --json >"$SCRATCH/tap" 2>"$SCRATCH/tap.talk" & tap=$!
helpers+=("$tap")
until_so "tap has begun" grep -q "requests of the route" "$SCRATCH/tap.talk"
same "a route serves" "$(status_of '?token=hunter2')" 200
ms route maintenance '/*' on --retry-after 90s >/dev/null
same "in maintenance it does not" "$(status_of)" 503
edge=$(pid_of edge) control=$(pid_of control)
kill -KILL "$edge" "$control"
are_others() {
  local one other
  one=$(pid_of edge) && other=$(pid_of control) || return 1
  [ "$one" != "$edge" ] && [ "$one" != None ] && [ "$other" != "$control" ] && [ "$other" != None ] && is_ready
}
until_so "edge and control plane are started again" are_others
same "and it still does not" "$(status_of)" 503
same "the status says so" "$(ms status --json | value "[r['path'] for r in it['maintenance']]")" "['/*']"
same "and route list, by whom" "$(ms route list --json | value "it[0]['maintenance']['is_by_hand']")" True
ms route maintenance '/*' off >/dev/null
same "it serves again" "$(status_of)" 200
same "both are told" "$(told MaintenanceBegan '/\*') $(told MaintenanceEnded '/\*')" "1 1"
seen() { [ "$(grep -c "\"status\":$1" "$SCRATCH/tap")" = "$2" ]; }
until_so "tap saw who was let in" seen 200 2
until_so "and who was not" seen 503 2
if grep -q hunter2 "$SCRATCH/tap"; then fail "tap shows a token"; fi
# It would see by itself that the stack is gone, ten seconds later.
kill "$tap"
wait "$tap" 2>/dev/null || true

say "down"
ms down >/dev/null
nothing_runs
all_passed
