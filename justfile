# Shortcuts; every line is a command of its own that works without just.
demo:
    ./bin/demo
check:
    ./bin/demo --check
test:
    ./bin/test
lint:
    cargo fmt --all --check && cargo clippy --workspace --all-targets --locked -- -D warnings && cargo xtask check
replay seed:
    MAINSTAY_SEED={{seed}} cargo test -p mainstay-sim
bench:
    ./bench/run
