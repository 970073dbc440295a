"""Patroni with etcd and HAProxy, the distribution's, on loopback and a folder of its own: the peer of bench/failover.
Runs as the user that PostgreSQL's package made when it is root. Everything it starts it ends."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

# Patroni's own: ttl 30, loop_wait 10, retry_timeout 10, primary_start_timeout 300; HAProxy as in Patroni's template.
# Tuned: the least that Patroni takes (ttl 20), no restart in place, HAProxy looks every 200 ms.
PROFILES = {
    "default": {"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "primary_start_timeout": 300, "check": "inter 3s fall 3 rise 2"},
    "tuned": {"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "primary_start_timeout": 0, "check": "inter 200ms fall 2 rise 1"},
}
PASSWORD = "of-the-bench"


def newest_postgresql():
    base = "/usr/lib/postgresql"
    return os.path.join(base, max(os.listdir(base), key=float), "bin")


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Patroni:
    def __init__(self, work, profile, sessions):
        self.work, self.profile, self.started = work, PROFILES[profile], []
        self.owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self.etcd, peer, self.door, *ports = free_ports(7)
        self.nodes = {"one": {"postgres": ports[0], "rest": ports[1]}, "two": {"postgres": ports[2], "rest": ports[3]}}
        self.url = f"postgres://app:{PASSWORD}@127.0.0.1:{self.door}/postgres"
        try:
            self.begin(peer, sessions)
        except BaseException:
            self.close()
            raise

    def begin(self, peer, sessions):
        base = f"http://127.0.0.1:{self.etcd}"
        mate = f"http://127.0.0.1:{peer}"
        self.start("etcd", "etcd", "--data-dir", f"{self.work}/etcd", "--listen-client-urls", base, "--advertise-client-urls", base,
                   "--listen-peer-urls", mate, "--initial-advertise-peer-urls", mate, "--initial-cluster", f"default={mate}")
        self.until("etcd answers", lambda: urllib.request.urlopen(f"{base}/health", timeout=1).status == 200)
        for name in self.nodes:
            self.write(f"{name}.json", json.dumps(self.settings(name, sessions)))
            self.start(name, "patroni", f"{self.work}/{name}.json")
            if name == "one":
                self.until("Patroni leads", self.leader)
        self.until("Patroni's standby is synchronous", self.primary)
        servers = "\n".join(f"  server {name} 127.0.0.1:{node['postgres']} check port {node['rest']}" for name, node in self.nodes.items())
        self.write("haproxy.cfg", f"""global
  maxconn 1000
defaults
  mode tcp
  timeout connect 2s
  timeout client 30m
  timeout server 30m
  timeout check 2s
listen primary
  bind 127.0.0.1:{self.door}
  option httpchk OPTIONS /primary
  http-check expect status 200
  default-server {self.profile['check']} on-marked-down shutdown-sessions
{servers}
""")
        self.start("haproxy", "haproxy", "-db", "-f", f"{self.work}/haproxy.cfg")
        # The role of the clients, by the leader's own port; and HAProxy must have seen who is no primary.
        node = self.nodes[self.leader()]
        made = subprocess.run(["psql", "-XAtqc", f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'; GRANT ALL ON SCHEMA public TO app"],
                              env={**os.environ, "PGPASSWORD": PASSWORD, "PGHOST": "127.0.0.1", "PGPORT": str(node["postgres"]), "PGUSER": "postgres", "PGDATABASE": "postgres"},
                              capture_output=True, text=True)
        if made.returncode != 0:
            raise RuntimeError(made.stderr)
        time.sleep(12)
        self.until("HAProxy leads to the primary", lambda: "f" in subprocess.run(["psql", "-XAtqc", "SELECT pg_is_in_recovery()", self.url], capture_output=True, text=True).stdout)

    def settings(self, name, sessions):
        node, profile = self.nodes[name], self.profile
        login = lambda user: {"username": user, "password": PASSWORD}
        return {
            "scope": "failover", "name": name,
            "restapi": {"listen": f"127.0.0.1:{node['rest']}", "connect_address": f"127.0.0.1:{node['rest']}"},
            "etcd3": {"host": f"127.0.0.1:{self.etcd}"},
            "bootstrap": {
                "dcs": {
                    **{key: profile[key] for key in ("ttl", "loop_wait", "retry_timeout", "primary_start_timeout")},
                    "master_start_timeout": profile["primary_start_timeout"], "synchronous_mode": True, "maximum_lag_on_failover": 1048576,
                    "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": {
                        # As the stack sets them, where it sets them.
                        "wal_level": "replica", "hot_standby": "on", "max_wal_senders": 10, "max_replication_slots": 10, "wal_log_hints": "on",
                        "max_connections": sessions + 50, "shared_buffers": "64MB", "max_wal_size": "1GB", "jit": "off", "wal_retrieve_retry_interval": "100ms"}},
                },
                "initdb": [{"encoding": "UTF8"}, "data-checksums", {"auth": "scram-sha-256"}],
                "pg_hba": ["host all all 127.0.0.1/32 scram-sha-256", "host replication all 127.0.0.1/32 scram-sha-256", "local all all scram-sha-256"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{node['postgres']}", "connect_address": f"127.0.0.1:{node['postgres']}", "data_dir": f"{self.work}/data-{name}",
                "bin_dir": newest_postgresql(), "pgpass": f"{self.work}/pgpass-{name}", "parameters": {"unix_socket_directories": self.work},
                "authentication": {"superuser": login("postgres"), "replication": login("replicator"), "rewind": login("rewinder")},
            },
        }

    def write(self, name, text):
        path = os.path.join(self.work, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o600)
        if self.owner:
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)

    def start(self, name, *command):
        log = open(os.path.join(self.work, f"{name}.log"), "ab")
        user = {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": []} if self.owner else {}
        home = {**os.environ, "HOME": self.work, "LC_ALL": "C.UTF-8"}
        self.started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self.work, env=home, start_new_session=True, **user))

    def until(self, what, asked, within=120):
        until, why = time.monotonic() + within, None
        while time.monotonic() < until:
            try:
                if found := asked():
                    return found
            except (OSError, RuntimeError) as error:
                why = error
            if ended := [one for one in self.started if one.poll() is not None]:
                raise RuntimeError(f"{what}: {ended[0].args[0]} ended with {ended[0].returncode}; its log is in {self.work}")
            time.sleep(0.2)
        raise RuntimeError(f"{what}: not so within {within} s ({why})")

    def look(self, name, path="patroni"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.nodes[name]['rest']}/{path}", timeout=2) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")
        except (OSError, ValueError):
            return {}

    def leader(self):
        for name in self.nodes:
            seen = self.look(name)
            if seen.get("role") in ("master", "primary") and seen.get("state") == "running":
                return name
        return None

    def primary(self):
        """Pid of the leader's postmaster when the cluster is whole: the other one streams, and is synchronous."""
        name = self.leader()
        if name is None:
            return None
        streams = [one for one in self.look(name).get("replication", []) if one.get("state") == "streaming" and one.get("sync_state") == "sync"]
        if not streams:
            return None
        with open(f"{self.work}/data-{name}/postmaster.pid") as file:
            return int(file.readline())

    def close(self):
        """HAProxy, then Patroni, which ends its PostgreSQL, then etcd; what is left is killed."""
        for one in reversed(self.started):
            if one.poll() is None:
                one.terminate()
                try:
                    one.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    one.kill()
                    one.wait()
        for name in self.nodes:
            try:
                with open(f"{self.work}/data-{name}/postmaster.pid") as file:
                    os.kill(int(file.readline()), signal.SIGQUIT)
            except (OSError, ValueError):
                continue


if __name__ == "__main__":
    # By hand: a cluster until Ctrl-C.
    folder = sys.argv[1]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    cluster = Patroni(folder, "tuned", 128)
    print(cluster.url)
    signal.pause()
