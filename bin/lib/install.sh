# Sourced by bin/demo and bin/test: installs missing packages on Debian and Ubuntu, and says so first.
# Touches nothing that is there already; units that come with its own installation are disabled again.

have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Packages for a purpose whose programs are not here.
missing_packages() {
  local purpose
  for purpose in "$@"; do
    case "$purpose" in
      build)
        have cc || echo gcc libc6-dev
        have cmake || echo cmake
        have make || echo make
        ;;
      run)
        ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || echo postgresql
        have redis-server || have valkey-server || echo redis-server
        have prometheus || echo prometheus
        have prometheus-alertmanager || have alertmanager || echo prometheus-alertmanager
        have curl || echo curl
        ;;
      test)
        # The distribution's own: services that dropped root must be able to run it.
        [ -x /usr/bin/python3 ] || echo python3
        /usr/bin/python3 -c 'import ensurepip' >/dev/null 2>&1 || echo python3-venv
        # What it says of the local authority's certificates.
        have openssl || echo openssl
        # The console in a browser.
        have node || echo nodejs
        have npm || echo npm
        have chromium || echo chromium
        # A certificate authority that speaks ACME.
        have pebble || echo pebble
        ;;
      plain)
        # A restore without mainstay.
        have restic || echo restic
        have age || echo age
        have zstd || echo zstd
        ;;
      drivers)
        # Drivers of PostgreSQL that are packages of the distribution, and what runs them.
        have javac || echo default-jdk-headless
        [ -e /usr/share/java/postgresql.jar ] || echo libpostgresql-jdbc-java
        have ruby || echo ruby
        [ -n "$(ls /usr/lib/*/ruby/vendor_ruby/*/pg_ext.so 2>/dev/null)" ] || echo ruby-pg
        [ -n "$(ls /usr/share/rubygems-integration/*/specifications/activerecord-*.gemspec 2>/dev/null)" ] || echo ruby-activerecord
        ;;
    esac
  done
}

# Rust is not the distribution's: its own installer brings it.
need_rust() {
  # rustup puts it there; a shell that is no login shell may not know.
  have cargo || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH="$HOME/.cargo/bin:$PATH"
  if ! have cargo; then
    echo "error: Rust is missing (cargo is not in PATH): install 1.95 or newer with rustup, then run this again" >&2
    exit 3
  fi
}

install_missing() {
  case " $* " in *" build "*) need_rust ;; esac
  local packages
  packages=$(missing_packages "$@" | tr '\n' ' ')
  [ -z "${packages// /}" ] && return 0
  if ! have apt-get; then
    echo "error: this machine lacks: $packages" >&2
    echo "hint: install them with its own package manager; only Debian and Ubuntu are done automatically" >&2
    exit 3
  fi
  if [ "$(id -u)" != 0 ] && ! have sudo; then
    echo "error: this machine lacks: $packages" >&2
    echo "hint: run as root, or: apt-get install --no-install-recommends $packages" >&2
    exit 3
  fi
  echo "installing: $packages"
  # Without this the package would make and start a cluster of its own.
  case " $packages " in *" postgresql "*)
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
      as_root mkdir -p /etc/postgresql-common
      echo "create_main_cluster = false" | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi ;;
  esac
  local units="" unit
  for unit in postgresql redis-server prometheus prometheus-alertmanager; do
    [ -e "/lib/systemd/system/$unit.service" ] || units="$units $unit"
  done
  # No package starts a server while this is here: mainstay starts its own.
  local policy=/usr/sbin/policy-rc.d made_policy=no
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    made_policy=yes
  fi
  local failed=0
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold $packages >/dev/null; } || failed=1
  [ "$made_policy" = no ] || as_root rm -f "$policy"
  if [ "$failed" = 1 ]; then
    echo "error: installing failed; by hand: apt-get install --no-install-recommends $packages" >&2
    exit 3
  fi
  if [ -d /run/systemd/system ]; then
    for unit in $units; do
      [ ! -e "/lib/systemd/system/$unit.service" ] || as_root systemctl disable --quiet --now "$unit" 2>/dev/null || true
    done
  fi
}

# mainstay and the applications, always together: another choice of packages chooses other features of what they
# share, and cargo would build all of that again.
# The program says in reports what it was built from; outside of a repository of its own it says nothing.
commit_of_source() {
  [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$(pwd -P)" ] || return 0
  printf '%s%s' "$(git rev-parse --short=12 HEAD)" "$(git diff --quiet HEAD 2>/dev/null || printf -- -dirty)"
}
build_release() {
  MAINSTAY_COMMIT=$(commit_of_source) cargo build --release --locked "$@" -p mainstay -p users -p integers
}
