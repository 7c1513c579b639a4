# One entry for everything; `make help` lists it. A bare Debian with a Rust toolchain, Python 3, Node and make is enough:
# what the tests need beyond that goes to .cache.

SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO ?= cargo
# The distribution's Python 3 if there is one: version managers put shims in front that may want a network.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
CACHE := .cache
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN ?= $(TARGET_DIR)/release/hornpipe
# Only for the tests: in the broker's own environment every HORNPIPE_… is a setting.
WITH_BIN := HORNPIPE_BIN=$(abspath $(BIN))

ROUNDS ?= 30
SHARD_ROUNDS ?= 10
LONG_ROUNDS ?= 500
LONG_SHARD_ROUNDS ?= 150
LONG_SEEDS ?= 10000
SOAK_MINUTES ?= 30
CUTS ?= 8
LONG_CUTS ?= 40
SEEDS ?= 2000
DATA ?= data

RUN_PY := $(WITH_BIN) PYTHONDONTWRITEBYTECODE=1 $(CACHE)/python

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | expand -t 18

# ------------------------------------------------------------------ build and run

HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# Without dynamic libraries 1.5 MiB less are resident, 0.2 more with short relocations (docs/adr/0019-build-and-runtime.md). Where
# glibc can't be linked statically, the name comes back without a path; before 2.36 it didn't know such relocations.
SHORT = $(shell printf '%s\n' 2.36 "$$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)" | sort -VC && echo -Clink-arg=-Wl,-z,pack-relative-relocs)
STATIC = $(if $(and $(findstring -linux-gnu,$(HOST)),$(findstring /,$(shell cc -print-file-name=libc.a))),-Ctarget-feature=+crt-static $(SHORT))

.PHONY: build
build: ## release binary, left at target/release/hornpipe
	$(CARGO) rustc --release --locked -p hornpipe --bin hornpipe -- $(STATIC)

PGO := $(abspath $(CACHE))/pgo
PROFDATA = $$(rustc --print sysroot)/lib/rustlib/$(HOST)/bin/llvm-profdata
PGO_CASES ?= a,b,c,d,f,g,h,m,n,o
# Flags for the host's code alone: with --target, build scripts and macros are left out.
PGO_BUILD = $(CARGO) build --release --locked -p hornpipe --target $(HOST) --target-dir $(TARGET_DIR)/pgo
PGO_BIN = $(TARGET_DIR)/pgo/$(HOST)/release/hornpipe

.PHONY: release-pgo
release-pgo: ## release binary optimised by what the bench's cases do, left at target/pgo/<host>/release/hornpipe
	@test -x $(PROFDATA) || rustup component add llvm-tools || { echo "needs the toolchain's llvm-tools" >&2; exit 1; }
	rm -rf $(PGO) && mkdir -p $(PGO)
	RUSTFLAGS="-Cprofile-generate=$(PGO)" $(PGO_BUILD)
	$(RUN_BENCH) suite --start hornpipe=$(PGO_BIN) --cases $(PGO_CASES) --rounds 1 --seconds 1.5 >/dev/null
	$(PROFDATA) merge -o $(PGO)/merged.profdata $(PGO)/*.profraw
	RUSTFLAGS="-Cprofile-use=$(PGO)/merged.profdata $(STATIC)" $(PGO_BUILD)

.PHONY: run
run: build ## build and start a broker with the default ports and its data in ./data
	mkdir -p $(DATA)
	$(BIN) --data-dir $(DATA)

.PHONY: clean
clean: ## remove build output, caches and the data of `make run`
	$(CARGO) clean
	rm -rf $(CACHE) $(DATA) tests/node/node_modules

# ------------------------------------------------------------------ checks

.PHONY: fmt
fmt: ## format the Rust code
	$(CARGO) fmt --all

.PHONY: lint
lint: ## formatting, clippy and documentation, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

.PHONY: tidy
tidy: ## crate dependencies, deny lists and the compatibility table
	$(CARGO) run -q --locked -p xtask -- tidy

.PHONY: deny
deny: ## licences, bans and sources, if cargo-deny is installed
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check licenses bans sources; \
	else echo "cargo-deny isn't installed: cargo install --locked cargo-deny"; fi

# ------------------------------------------------------------------ tests

# A virtual environment where python3-venv is there, else a plain folder for pip, else a virtualenv.
$(CACHE)/python: tests/requirements.txt
	rm -rf $(CACHE)/venv $(CACHE)/site $(CACHE)/python
	mkdir -p $(CACHE)
	@set -e; cache="$(abspath $(CACHE))"; \
	if $(PYTHON) -m venv "$$cache/venv" >/dev/null 2>&1 && "$$cache/venv/bin/python" -m pip --version >/dev/null 2>&1; then \
		"$$cache/venv/bin/python" -m pip install -q --disable-pip-version-check -r tests/requirements.txt; \
		printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$cache/venv/bin/python" > "$$cache/python"; \
	elif rm -rf "$$cache/venv"; $(PYTHON) -m virtualenv "$$cache/venv" >/dev/null 2>&1; then \
		"$$cache/venv/bin/python" -m pip install -q --disable-pip-version-check -r tests/requirements.txt; \
		printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$cache/venv/bin/python" > "$$cache/python"; \
	elif $(PYTHON) -m pip install -q --disable-pip-version-check --target "$$cache/site" -r tests/requirements.txt; then \
		printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s" "$$@"\n' "$$cache/site" "$(PYTHON)" > "$$cache/python"; \
	else echo "no way to install Python packages: apt-get install python3-venv" >&2; exit 1; fi; \
	chmod +x "$$cache/python"

tests/node/node_modules/.installed: tests/node/package.json tests/node/package-lock.json
	cd tests/node && npm ci --no-audit --no-fund --loglevel=error
	touch $@

.PHONY: test-deps
test-deps: $(CACHE)/python tests/node/node_modules/.installed ## what the client tests need, into .cache and node_modules

.PHONY: test-rust
test-rust: ## unit, property, simulation and conformance tests
	$(CARGO) test --workspace --locked

.PHONY: sim
sim: ## the simulation: SEEDS=2000 seeds, or only SEED=n
	$(CARGO) run -q --locked -p hornpipe-sim -- --seeds $(if $(SEED),1,$(SEEDS)) $(if $(SEED),--seed $(SEED) --verbose)

.PHONY: clients
clients: build test-deps ## Python and Node clients against the release binary
	$(RUN_PY) -m pytest tests/python
	cd tests/node && $(WITH_BIN) npm test --silent

.PHONY: golden
golden: build test-deps ## frames against RabbitMQ's kept transcripts, and what autoscalers ask
	$(WITH_BIN) tests/run/with_broker.sh sh -c '$(CACHE)/python tests/differential/run.py --broker "$$AMQP_URL" \
		--admin "$$ADMIN_URL" --golden tests/differential/golden --compare --jobs 4 && cd tests/autoscaler && $(abspath $(CACHE))/python -m pytest -q'

.PHONY: clients-more
clients-more: build ## clients in other languages and the tools people use beside them
	$(WITH_BIN) tests/clients/run.sh

.PHONY: crash-loop
crash-loop: build test-deps ## ROUNDS=30 kills under load, and SHARD_ROUNDS=10 with two shards
	$(RUN_PY) tests/run/crash_loop.py --rounds $(ROUNDS)
	$(RUN_PY) tests/run/crash_loop.py --rounds $(SHARD_ROUNDS) --shards 2

.PHONY: test
test: test-deps test-rust tidy ## everything but the long ones, on the release binary
	$(MAKE) clients
	$(MAKE) golden
	$(MAKE) crash-loop
	@echo "make test: ok"

.PHONY: test-long
test-long: build test-deps ## 500 crash rounds, 10 000 simulation seeds, half an hour of mixed traffic, power cuts where root and loop devices allow, the slow Rust tests
	$(CARGO) test --workspace --locked -- --ignored
	$(MAKE) sim SEEDS=$(LONG_SEEDS)
	$(MAKE) crash-loop ROUNDS=$(LONG_ROUNDS) SHARD_ROUNDS=$(LONG_SHARD_ROUNDS)
	$(MAKE) space SPACE_MIB=400
	$(MAKE) soak
	$(RUN_PY) tests/run/power_cut.py --cuts $(LONG_CUTS) --skip-if-impossible
	@echo "make test-long: ok"

.PHONY: soak
soak: build test-deps ## SOAK_MINUTES=30 of mixed traffic: nothing lost, memory and disk steady
	$(RUN_PY) tests/run/soak.py --minutes $(SOAK_MINUTES)

.PHONY: test-power-cut
test-power-cut: build test-deps ## what a disk holds right after a confirm: needs root and loop devices
	$(RUN_PY) tests/run/power_cut.py --cuts $(CUTS)

SPACE_MIB ?= 1024

.PHONY: space
space: build test-deps ## disk against what is live, full and after drains: SPACE_MIB=1024 a shape
	$(RUN_PY) tests/run/space_check.py --mib $(SPACE_MIB)

.PHONY: plots
plots: build test-deps ## memory and disk over a backlog that comes and goes, drawn to docs/plots
	$(RUN_PY) tests/run/space_plot.py --out docs/plots

.PHONY: test-tests
test-tests: test-deps ## the client tests themselves, against a private RabbitMQ (rabbitmq-server installed)
	BROKER=rabbitmq $(RUN_PY) -m pytest tests/python
	cd tests/node && BROKER=rabbitmq npm test --silent
	BROKER=rabbitmq $(RUN_PY) tests/run/crash_loop.py --rounds 4

.PHONY: differential
differential: build test-deps ## the same frames to us and to RabbitMQ, answers compared
	$(WITH_BIN) tests/differential/run.sh

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZ_SECONDS=60, on nightly Rust with cargo-fuzz
	for target in frame connection record commands; do \
		mkdir -p $(CACHE)/fuzz/$$target; \
		$(CARGO) +nightly fuzz run --fuzz-dir crates/fuzz $$target $(CACHE)/fuzz/$$target crates/fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -rss_limit_mb=2048 -timeout=20 || exit 1; \
	done

# ------------------------------------------------------------------ speed

BENCH_CASES ?= a,b,c,d,e,f,g,n,h,s,o,p,q,r,i,j,m,k,l
BENCH_ROUNDS ?= 3
RUN_BENCH = $(CARGO) run -q --release --locked -p hornpipe-bench --
BENCH = $(RUN_BENCH) suite --start hornpipe=$(BIN) \
	--cases $(BENCH_CASES) --rounds $(BENCH_ROUNDS)

.PHONY: bench
bench: build ## the cases of docs/performance.md and the generator's own ceiling: BENCH_CASES=a,b BENCH_ROUNDS=3
	$(BENCH)
	$(RUN_BENCH) ceiling

TABLE ?= $(CACHE)/bench-peers.md

.PHONY: rabbitmq
rabbitmq:
	tests/run/install_rabbitmq.sh

.PHONY: bench-peers
bench-peers: build rabbitmq ## the same beside a RabbitMQ on this machine, in turns, with ratios: TABLE=FILE
	mkdir -p $(dir $(TABLE))
	$(BENCH) --start rabbitmq=tests/run/rabbitmq.sh --table $(TABLE)

.PHONY: bench-clients
bench-clients: build test-deps rabbitmq ## pika and amqplib against both, in turns: BENCH_ROUNDS=3
	$(RUN_PY) tests/run/ordinary_clients.py --rounds $(BENCH_ROUNDS)

CURVES ?=

.PHONY: bench-curves
bench-curves: build ## figures over growing numbers of things, drawn to docs/plots: CURVES="--curves size --most 1000"
	$(RUN_BENCH) curves --start hornpipe=$(BIN) --out docs/plots $(CURVES)

.PHONY: bench-check
bench-check: BENCH_ROUNDS = 1
bench-check: build bench-instructions ## each case for a moment: counts, order, contents; then bench-instructions
	$(BENCH) --seconds 0.5

.PHONY: valgrind
valgrind:
	@command -v valgrind >/dev/null || { [ $$(id -u) = 0 ] && apt-get install -y --no-install-recommends valgrind >/dev/null; } \
		|| { echo "instructions are counted by valgrind: apt-get install valgrind" >&2; exit 1; }

.PHONY: bench-instructions
bench-instructions: valgrind ## instructions per message against crates/bench/instructions.json, ±5 %
	$(RUN_BENCH) instructions

.PHONY: bench-counts
bench-counts: valgrind ## writes crates/bench/instructions.json anew
	$(RUN_BENCH) instructions --write

BENCH_LONG ?=

.PHONY: bench-shards
bench-shards: build test-deps ## two vhosts under load at once, with one shard and with two
	$(CARGO) build --release --locked -p hornpipe-bench
	HORNPIPE_BENCH=$(abspath $(TARGET_DIR))/release/hornpipe-bench $(RUN_PY) tests/run/two_vhosts.py

.PHONY: bench-long
bench-long: build test-deps ## long queues and bulk work: longest turns, rates against length (BENCH_LONG="--messages 1000000 purge curve", "--body 1024 memory")
	$(RUN_PY) tests/run/long_queues.py $(BENCH_LONG)

SMALL_TRAFFIC ?=

.PHONY: small-traffic
small-traffic: build test-deps ## how long small traffic waits beside one heavy client: SMALL_TRAFFIC="--seconds 3 declares bindq"
	$(RUN_PY) tests/run/small_traffic.py $(SMALL_TRAFFIC)

# ------------------------------------------------------------------ image

.PHONY: docker
docker: ## container image hornpipe:latest, by docker, podman or buildah
	docker/build.sh

.PHONY: image-tree
image-tree: ## the image's root file system without an engine, started in a chroot (needs root for that)
	docker/image-tree.sh $(CACHE)/image
