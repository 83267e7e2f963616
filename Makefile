# Holdfast: one command per chore, the same here and in CI. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Every target is a chore, none is a file.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(MAKEFILE_LIST))

CARGO ?= cargo
UP_ARGS ?=
BENCH_ARGS ?=

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what a run needs from the system's packages (redis-server)
	@tests/scripts/install-packages run

run: deps chat-page dev ## build and start a whole local cluster: Redis, chat nodes, balancer, supervisor, mail sink
	target/debug/holdfast up $(UP_ARGS)

demo-failover: deps dev ## kill -9 the Redis primary under load and count what is lost
	target/debug/holdfast up --ports free --state-dir .holdfast/demo --scenario redis-primary-crash $(UP_ARGS)

demo-node-crash: deps dev ## kill -9 a chat node under load and count what is lost
	target/debug/holdfast up --ports free --state-dir .holdfast/demo --scenario chatnode-crash $(UP_ARGS)

dev: ## the three binaries, unoptimised, for trying things
	$(CARGO) build --workspace --bins

build: ## release binaries: target/release/{holdfast,holdfast-balancer,holdfast-chatnode}
	$(CARGO) build --release --workspace --bins

test: ## everything CI runs, and what it needs
	@tests/scripts/test

lint: ## format, clippy, docs
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

fmt: ## format the source
	$(CARGO) fmt --all

alerts-check: ## promtool and amtool checks of alerts/
	alerts/check.sh

# Rebuilt when a source is newer; the chat node embeds the result.
chat-page: ## the demo chat page, which the chat node embeds (needs Node.js; without it the node does without)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory console/dist/chat/index.html; \
	else echo "npm is not installed: the chat node is built without the demo chat page"; fi

console/dist/chat/index.html: console/node_modules/.package-lock.json console/package.json $(shell find console/chat -type f)
	cd console && npm run --silent build
	@touch $@

console/node_modules/.package-lock.json: console/package-lock.json
	cd console && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

console: ## install and check the web console's packages
	cd console && npm ci --no-audit --no-fund && npm run check

bench-supervisor: build ## CPU and memory of the supervisor on a local cluster
	tests/bench/supervisor

bench-chatnode: ## memory and CPU of a chat node: idle connections, deliveries, confirmed publishes
	tests/bench/chatnode

bench-balancer: ## CPU and memory of the balancer beside HAProxy and nginx (BENCH_ARGS=--rounds 3)
	tests/bench/balancer $(BENCH_ARGS)

failover-balancer: ## two balancers behind keepalived: one killed, one cut off; a client is back within 2 s (root, Linux)
	$(CARGO) build --release -p holdfast-balancer
	tests/scripts/keepalived-failover target/release/holdfast-balancer 2

attack-balancer: ## floods against the balancer at full size, and what others notice of them (ATTACK_CONNECTIONS=9000)
	ulimit -n "$$(ulimit -Hn)" && ATTACK_CONNECTIONS=$(or $(ATTACK_CONNECTIONS),9000) $(CARGO) test --quiet -p holdfast-balancer --test floods -- --nocapture --test-threads 1

bench-metrics: build ## the metrics engine beside Prometheus: same targets, rules and queries (BENCH_ARGS=--seconds 60)
	python3 tests/bench/metrics $(BENCH_ARGS)

soak-chat: dev ## random faults under load, and what they cost: nothing may be lost (ROUNDS=200, SEED=<n>)
	$(CARGO) build --quiet -p holdfast-tests --example soak-chat
	target/debug/examples/soak-chat --rounds $(or $(ROUNDS),200) $(if $(SEED),--seed $(SEED))

soak-metrics: dev ## kill -9, flipped bits and a full disk while samples come in (ROUNDS=100, SEED=<n>)
	$(CARGO) build --quiet -p holdfast-tests --example soak-metrics
	target/debug/examples/soak-metrics --rounds $(or $(ROUNDS),100) $(if $(SEED),--seed $(SEED))

soak-balancer: ## WebSockets under traffic through reloads, changes of servers and a binary upgrade: none may end (SOCKETS=5000)
	HOLDFAST_SOAK_SOCKETS=$(or $(SOCKETS),5000) tests/scripts/at-full-size soak-balancer $$((3 * $(or $(SOCKETS),5000) + 1000)) \
		$(CARGO) test -p holdfast-balancer --test soak -- --nocapture

drain-balancer: dev ## a paced drain of chat clients with the official SDK over real chat nodes: none may lose a message (CLIENTS=2000 RATE=100)
	cd console && npm ci --no-audit --no-fund --loglevel=error && DRAIN_CLIENTS=$(or $(CLIENTS),2000) DRAIN_RATE=$(or $(RATE),100) \
		../tests/scripts/at-full-size drain-balancer $$((3 * $(or $(CLIENTS),2000) + 1000)) node --import tsx --test tests/drain.test.ts

fuzz-api: ## requests made up from the balancer's OpenAPI document: none may break it or be answered otherwise than described (EXAMPLES=100)
	$(CARGO) build -p holdfast-balancer --bins
	tests/scripts/operator-api fuzz $(or $(EXAMPLES),100)

fuzz: ## every fuzz target for a bounded time (SECONDS_EACH=30)
	tests/scripts/fuzz

bench-failover: build ## Redis failover beside Redis Sentinel, fault by fault (network namespaces: needs root; BENCH_ARGS=--runs 1)
	python3 -m venv target/bench-python && target/bench-python/bin/pip install --quiet -r tests/bench/failover/requirements.txt
	target/bench-python/bin/python tests/bench/failover $(BENCH_ARGS)

simulate-failover: ## made-up worlds of supervisors and Redis, invariants checked in each (WORLDS=10000; SEED=17 replays one and tells its story)
	HOLDFAST_SIMULATE_WORLDS=$(or $(WORLDS),10000) $(if $(SEED),HOLDFAST_SIMULATE_SEED=$(SEED)) \
		cargo test -p holdfast-supervisor --lib -- --nocapture no_world_has_two_primaries

partitions: build ## what each cut through the network does to Redis and its clients, as a table (needs root; BENCH_ARGS=--check)
	@tests/scripts/install-packages bench
	python3 tests/bench/partitions $(BENCH_ARGS)

quiet-failover: build ## a slow primary is left alone: busy processors, forks, long commands, stalls (needs root; DURATION=1800 seconds)
	@tests/scripts/install-packages bench
	python3 tests/bench/quiet --seconds $(or $(DURATION),1800) $(BENCH_ARGS)

clients-failover: dev ## Redis clients for other languages, unmodified, through failovers (BENCH_ARGS=--runs 5)
	tests/scripts/clients-failover $(BENCH_ARGS)

hunt-flakes: ## the tests again and again on a busy machine: which fail by chance? (RUNS=15, TARGETS="servers it")
	@tests/scripts/install-packages test
	@tests/scripts/install-packages bench
	tests/scripts/hunt-flakes --runs $(or $(RUNS),15) $(TARGETS)

redis-versions: ## the failover tests against Redis 6.2 and 8.2 and Valkey 9.1
	tests/scripts/redis-versions

clean: ## remove what was built
	$(CARGO) clean
	rm -rf console/node_modules console/dist/chat/* .holdfast
