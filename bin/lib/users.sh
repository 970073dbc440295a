# Sourced by check.sh: what the users application can do beyond users themselves, through the edge; and clients
# with tokens of their own, because one user has 100 requests a minute at each operation. Needs call, same, field,
# edge_curl and port.

# Signs in N editors; their tokens are in SCRATCH/tokens. Needs an administrator's TOKEN.
make_clients() {
  local admin=$TOKEN number status
  : >"$SCRATCH/tokens"
  for number in $(seq "$1"); do
    TOKEN=$admin
    status=$(call POST /api/users "{\"username\":\"client-$number\",\"email\":\"client-$number@example.com\",\"role\":\"editor\",\"password\":\"a client of the check\"}")
    case "$status" in 201 | 409) ;; *) fail "creating client $number: $status" ;; esac
    TOKEN=""
    [ "$(call POST /api/auth/login "{\"username\":\"client-$number\",\"password\":\"a client of the check\"}")" = 200 ] || fail "signing client $number in"
    field accessToken >>"$SCRATCH/tokens"
  done
  TOKEN=$admin
  ok "$1 clients are signed in"
}

# The token of the client whose turn it is: NUMBER
token_of() {
  local count
  count=$(wc -l <"$SCRATCH/tokens")
  sed -n "$(($1 % count + 1))p" "$SCRATCH/tokens"
}

# Status of METHOD PATH with the browser's cookie; further curl options follow.
browser() {
  local method=$1 path=$2
  shift 2
  edge_curl -X "$method" -b "$SCRATCH/cookies" -c "$SCRATCH/cookies" -o "$SCRATCH/body" -D "$SCRATCH/head" \
    -w '%{http_code}' "$@" "https://users.localhost:$HTTPS$path" || true
}

use_the_rest() {
  local csrf id number status management let_through=0
  same "the interface describes itself" "$(call GET /openapi.json)" 200
  same "and has a page about it" "$(call GET /docs)" 200

  call POST /api/users '{"username":"browsing","email":"browsing@example.com","role":"editor","password":"a browser of the check"}' >/dev/null
  same "a browser signs in with a cookie" \
    "$(browser POST /api/auth/session --json '{"username":"browsing","password":"a browser of the check"}')" 200
  csrf=$(field csrfToken)
  grep -qi '^set-cookie: __Host-session=.*HttpOnly; SameSite=Strict' "$SCRATCH/head" || fail "the cookie is not closed to scripts and other sites"
  same "it reads" "$(browser GET /api/auth/me)" 200
  same "it changes nothing without its CSRF value" "$(browser POST /api/users --json '{"username":"forged","email":"forged@example.com"}')" 403
  same "and does with it" "$(browser POST /api/users -H "x-csrf-token: $csrf" --json '{"username":"by-browser","email":"by-browser@example.com"}')" 201

  printf 'username,email,firstName\nfrom-csv,from-csv@example.com,=1+1\nx,nobody,\n' >"$SCRATCH/import.csv"
  same "a dry run of an import" "$(call POST '/api/users/import?dryRun=true' '' -H 'content-type: text/csv' --data-binary "@$SCRATCH/import.csv")" 200
  same "says which lines are wrong" "$(field faultsTotal) $(field good)" "2 1"
  same "an import with a wrong line is refused as a whole" "$(call POST /api/users/import '' -H 'content-type: text/csv' --data-binary "@$SCRATCH/import.csv")" 422
  same "nothing of it is there" "$(call GET /api/users/username/from-csv)" 404
  sed -i '$d' "$SCRATCH/import.csv"
  same "without the wrong line it is imported" "$(call POST /api/users/import '' -H 'content-type: text/csv' --data-binary "@$SCRATCH/import.csv")" 200
  same "exporting" "$(call GET '/api/users/export?q=from-csv')" 200
  grep -q "^[0-9]*,from-csv,from-csv@example.com,'=1+1," "$SCRATCH/body" || fail "the export is not safe to open: $(cat "$SCRATCH/body")"

  id=$(call GET /api/users/username/browsing >/dev/null; field id)
  same "deactivating" "$(call PUT "/api/users/$id/deactivate")" 200
  same "signs out at once" "$(browser GET /api/auth/me)" 401
  same "reactivating" "$(call PUT "/api/users/$id/reactivate")" 200

  for number in $(seq 110); do
    status=$(call GET /api/v1/metrics/requests)
    [ "$status" != 200 ] || let_through=$((let_through + 1))
  done
  same "of 110 requests of one user at one operation within a minute, over both instances" "$let_through" 100
  grep -qi '^retry-after: [1-9]' "$SCRATCH/head" || fail "the refusal does not say how long to wait"

  limited_by_address

  management=$(port management:backend-1)
  same "strangers see no components of health" "$(TOKEN="" call GET /actuator/health) $(grep -c components "$SCRATCH/body" || true)" "200 0"
  same "the rest of the actuator is not public" "$(call GET /actuator/env)" 200
  if grep -q propertySources "$SCRATCH/body"; then fail "the edge shows the actuator to everybody"; fi
  curl --silent --noproxy '*' "http://127.0.0.1:$management/actuator/flyway" >"$SCRATCH/body"
  same "the actuator lists the migrations that ran" "$(grep -o '"state":"SUCCESS"' "$SCRATCH/body" | wc -l)" "$(ls apps/users/migrations | wc -l)"
}

# An address that asks without pause: at first as many as a minute has and what comes meanwhile, then the rate and no more.
limited_by_address() {
  local code=0
  /usr/bin/python3 bin/lib/limit.py "$HTTPS" "$STATE/users/development/ca/ca.pem" users.localhost /api/users >"$SCRATCH/limit" || code=$?
  sed 's/^/        /' "$SCRATCH/limit"
  same "an address gets 1,000 requests a minute, to 1 % exactly; what drills ask is exempt" "$code" 0
}

# Holds the application to its description. Who asks is an administrator of a high number, whom no guessed number
# changes; what would end the asking session is left out here and tried by `cargo test -p users`.
hold_to_document() {
  local admin=$TOKEN number
  { echo "username,email"; for number in $(seq 400); do echo "described-$number,described-$number@example.com"; done; } >"$SCRATCH/many.csv"
  same "400 users for the description to speak of" "$(call POST /api/users/import '' -H 'content-type: text/csv' --data-binary "@$SCRATCH/many.csv")" 200
  call POST /api/users '{"username":"describer","email":"describer@example.com","role":"admin","password":"a reader of the check"}' >/dev/null
  same "signing in as the one who asks" \
    "$(TOKEN="" call POST /api/auth/login '{"username":"describer","password":"a reader of the check"}')" 200
  ADDRESSES=many TOKEN=$(field accessToken) CA="$STATE/users/development/ca/ca.pem" bin/lib/schemathesis.sh users \
    "https://users.localhost:$HTTPS/openapi.json" --exclude-operation-id signOut --exclude-operation-id changePassword ||
    fail "the application and its description differ"
  TOKEN=$admin
  ok "the application is what its description says"
}
