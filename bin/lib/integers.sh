#!/usr/bin/env bash
# The integers application on the whole architecture: used through the edge, held to its document, and attacked while
# its own receipts client keeps every integer it was given. Needs built programs; leaves nothing running.
# DRILL_RUNS=N rounds of the two drills that matter most here, INCREMENTS=N of the load on three instances.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

RUNS="${DRILL_RUNS:-2}"
INCREMENTS="${INCREMENTS:-3000}"
INTEGERS="${INTEGERS:-target/release/integers}"
began=$SECONDS
CLIENT="" KEY=""

program_at_target integers
begin_stack apps/integers

# curl with the stack's own CA and nobody else's.
edge_curl() {
  curl --silent --noproxy '*' --max-time 40 --cacert "$STATE/integers/development/ca/ca.pem" \
    --resolve "integers.localhost:$HTTPS:127.0.0.1" "$@"
}

# Status of METHOD PATH [BODY] [curl options]; body in SCRATCH/body, head in SCRATCH/head.
call() {
  local method=$1 path=$2 body=${3:-}
  shift $(($# < 3 ? $# : 3))
  [ -z "$body" ] || set -- "$@" --json "$body"
  edge_curl -X "$method" -H "x-api-key: $KEY" -o "$SCRATCH/body" -D "$SCRATCH/head" -w '%{http_code}' "$@" \
    "https://integers.localhost:$HTTPS$path" || true
}

# The text or number of a field in the last answer's body.
field() { grep -oE "\"$1\":(\"[^\"]*\"|[0-9]+)" "$SCRATCH/body" | head -n 1 | sed -e "s/^\"$1\"://" -e 's/"//g'; }
head_of() { tr -d '\r' <"$SCRATCH/head" | sed -n "s/^$1: //Ip"; }

use_it() {
  KEY=none
  same "without a key: no" "$(call GET /api/v1/integer)" 401
  same "registering" "$(call POST /users/create '{"username":"ada","password":"correct horse battery"}')" 201
  KEY=$(field apiKey)
  same "the same name again is refused" "$(call POST /users/create '{"username":"ADA","password":"correct horse battery"}')" 409
  same "the first integer" "$(call POST /api/v1/integer/next) $(field value)" "200 1"
  same "the next one, by PUT" "$(call PUT /api/v1/integer/next) $(field value)" "200 2"
  same "ten at once" "$(call POST '/api/v1/integer/next?n=10') $(field first)-$(field value)" "200 3-12"
  same "with a key" "$(call POST /api/v1/integer/next '' -H 'idempotency-key: once') $(field value)" "200 13"
  same "the same key again" \
    "$(call POST /api/v1/integer/next '' -H 'idempotency-key: once') $(field value) $(head_of idempotency-replayed)" "200 13 true"
  same "that key for something else is refused" "$(call POST '/api/v1/integer/next?n=2' '' -H 'idempotency-key: once')" 422
  same "where it stands, as text" "$(call GET /api/v1/integer '' -H 'accept: text/plain') $(cat "$SCRATCH/body")" "200 13"
  same "where it stands, as JSON:API" \
    "$(call GET /api/v1/integer '' -H 'accept: application/vnd.api+json') $(field type) $(field value)" "200 integers 13"
  same "going back is refused" "$(call PUT /api/v1/integer '{"value":5}')" 409
  same "going back when confirmed" "$(call PUT /api/v1/integer '{"value":5,"confirm":true}') $(field value)" "200 5"
  same "to the end of all integers" "$(call PUT /api/v1/integer '{"value":9223372036854775807}')" 200
  same "past it is refused" "$(call POST /api/v1/integer/next)" 409
  same "somebody else does not exist" "$(call GET /api/v1/users/1)" 404
  same "a range that is too long is refused" "$(call POST '/api/v1/integer/next?n=1001')" 422
  same "usage" "$(call GET /api/v1/usage)" 200
  local number
  for number in 1 2 3; do call POST /users/create "{\"username\":\"more-$number\",\"password\":\"correct horse battery\"}" >/dev/null; done
  same "a sixth registration in a minute is refused" \
    "$(call POST /users/create '{"username":"sixth","password":"correct horse battery"}')" 429
  [ "$(head_of retry-after)" -ge 1 ] || fail "429 without Retry-After"
  same "the page is served over HTTP/2" \
    "$(edge_curl --http2 -o "$SCRATCH/body" -D "$SCRATCH/head" -w '%{http_code} %{http_version}' "https://integers.localhost:$HTTPS/")" "200 2"
  grep -q "<title>Integers</title>" "$SCRATCH/body" || fail "the page is not the integers page"
  case "$(head_of content-security-policy)" in "default-src 'self'"*) ;; *) fail "the page may load from elsewhere" ;; esac
  same "metrics are not public" "$(call GET /metrics)" 404
  same "health is" "$(call GET /healthz)" 200
}

hold_to_document() {
  local password
  password=$(ms env backend --show-secrets | sed -n 's/^ADMIN_PASSWORD=//p')
  same "signing in as admin" "$(call POST /auth/token "{\"username\":\"admin\",\"password\":\"$password\"}")" 200
  # Signing out would end the session that all other requests need.
  SECONDS_MAX=30 TOKEN=$(field accessToken) CA="$STATE/integers/development/ca/ca.pem" bin/lib/schemathesis.sh integers \
    "https://integers.localhost:$HTTPS/openapi.json" --exclude-path /auth/logout ||
    fail "the service and its document differ"
  ok "the service is what its document says"
}

receipts() {
  "$INTEGERS" receipts --url "https://integers.localhost:$HTTPS" --ca "$STATE/integers/development/ca/ca.pem" \
    --api-key "$KEY" "$@"
}

# Shows a report and demands that receipts and counter agree: FILE CODE WHAT
agreed() {
  sed 's/^/        /' "$1"
  same "$3: every integer once, none lost, none unexplained" "$2" 0
}

# 64 clients on one counter through all instances: exactly as many integers as were asked for.
permutation() {
  local code=0 before after
  call GET /api/v1/integer >/dev/null
  before=$(field value)
  receipts --clients 64 --increments "$INCREMENTS" >"$SCRATCH/permutation" 2>&1 || code=$?
  agreed "$SCRATCH/permutation" "$code" "64 clients on 3 instances"
  call GET /api/v1/integer >/dev/null
  after=$(field value)
  same "the counter grew by exactly $INCREMENTS" $((after - before)) "$INCREMENTS"
}

# Clients that take integers until they are told to stop.
start_client() {
  mkfifo "$SCRATCH/tap-$1"
  receipts --clients 8 --pace 20 --until-eof <"$SCRATCH/tap-$1" >"$SCRATCH/receipts-$1" 2>&1 &
  CLIENT=$!
  exec 9>"$SCRATCH/tap-$1"
}

# Sets CODE to how they ended.
stop_clients() {
  CODE=0
  [ -n "$CLIENT" ] || return 0
  exec 9>&-
  wait "$CLIENT" || CODE=$?
  CLIENT=""
}

# One drill, with clients that keep receipts: NAME RUNS
watched_drill() {
  start_client "$1"
  # Not to be held open by anything that the drill starts.
  drill "$1" "$2" 9>&-
  stop_clients
  agreed "$SCRATCH/receipts-$1" "$CODE" "receipts during $1"
  grep -q "numbers of the application: 0 lost, 0 given twice" "$SCRATCH/drill-$1" || fail "the drill has no receipts of its own"
}

# The same for what is not asked here how long it takes, only what becomes of the integers: a missed time (10) is
# printed and judged where those drills are tested; a fault or load that was not proven fails.
watched_fault() {
  local code=0
  start_client "$1"
  ms drill "$1" >"$SCRATCH/drill-$1" 2>&1 9>&- || code=$?
  stop_clients
  grep -E "^$1|^  (RTO|requests|fault) " "$SCRATCH/drill-$1" | sed 's/^/        /' || true
  case "$code" in 0 | 10) ;; *) cat "$SCRATCH/drill-$1"; fail "drill $1: exit $code" ;; esac
  agreed "$SCRATCH/receipts-$1" "$CODE" "receipts during $1"
}

attack() {
  local name known
  watched_drill instance-crash "$RUNS"
  watched_drill database-crash "$RUNS"
  # What else can cut a request or a commit, as far as this build has the drill.
  known=$(ms drill 2>/dev/null)
  for name in edge-crash router-crash store-crash database-freeze; do
    if grep -qw -- "$name" <<<"$known"; then watched_fault "$name"; fi
  done
}

say "up"
ms up -d
HTTPS=$(port edge-https)
say "used through the edge"
use_it
say "one counter, many clients"
same "back to the beginning" "$(call PUT /api/v1/integer '{"value":1,"confirm":true}')" 200
permutation
say "attacked while receipts are kept (rounds each: $RUNS)"
attack
say "held to its OpenAPI document" # last: it locks users out and rotates keys
hold_to_document
say "down"
ms down
nothing_runs
all_passed
