# Two commands matter: `make demo` and `make test`.

SHELL := bash
CARGO ?= cargo
# Arguments of the demo, such as: make demo ARGS="--devices 100 --duration 60"
ARGS ?=

.PHONY: demo test build deps fmt lint unit docs deny load clean

demo:
	$(CARGO) build --release --locked --bin demo --bin simulator --bin core-hub --bin edge-agent --bin certs
	./target/release/demo $(ARGS)

build:
	$(CARGO) build --release --locked --workspace

# Everything CI checks, in the order of how fast it fails.
test: deps fmt lint unit docs deny

deps:
	./.ci/deps

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit:
	$(CARGO) test --workspace --locked --no-fail-fast

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

deny:
	.cache/tools/bin/cargo-deny --locked check bans licenses sources

# The figures in the README's performance section: 10,000 devices, three hubs, one agent.
load:
	$(CARGO) build --release --locked --bin demo --bin simulator --bin core-hub --bin edge-agent --bin certs
	./target/release/demo load $(ARGS)

clean:
	$(CARGO) clean
	rm -rf .cache
