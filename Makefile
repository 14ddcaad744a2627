# Every target is one thing a person wants to do. `make run` and `make test` are all that a newcomer needs.
.DEFAULT_GOAL := help
.PHONY: help run demo test check setup debian debian-bench bench bench-agent bench-belief bench-console bench-crash bench-decide bench-detect bench-drift bench-forecast bench-gpu bench-host bench-ingest bench-live bench-otlp bench-prometheus bench-rca bench-replay bench-verify boards readme dist clean
SHELL := /bin/sh
# Many images say that no bytecode is to be kept. Tests start hundreds of processes, and each would compile us anew.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
APT_PACKAGES := chromium e2fsprogs haproxy iproute2 postgresql prometheus prometheus-alertmanager prometheus-node-exporter prometheus-pushgateway victoria-metrics

help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

run: .venv/core ## install what the daemon needs, and start it on this host
	$(BIN)/homeostat run $(ARGS)

demo: .venv/all ## break a real model service five ways and watch it heal (ARGS=--belief: try the agent itself)
	$(BIN)/homeostat demo $(ARGS)

test: .venv/all build/outside build/schema ## everything: lint, types, layers, unit, live and demo tests
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then $(MAKE) --no-print-directory debian; fi
	@$(MAKE) --no-print-directory check acts

check: .venv/all lint unit ## lint, types and unit tests: six minutes on two cores

# Three at a time on two cores: unit tests also wait for processes. What measures runs alone, in `test`.
.PHONY: lint unit acts
unit: .venv/all
	$(BIN)/pytest -q -n 3 -m "not live and not demo and not slow and not long"

# The demo has the machine for itself: it proves that a neighbour who takes it is found and calmed. What computes for long
# runs after it, at a low priority, beside what waits for servers.
acts: .venv/all
	@mkdir -p build
	$(BIN)/pytest -m "demo and not long" $(ARGS)
	@echo 'long tests, beside those of live servers: they say what they found at their end'
	@nice -n 10 $(BIN)/pytest -q -n 2 -m long >build/long.log 2>&1 & long=$$!; \
	$(BIN)/pytest -m "(slow or live) and not demo and not long" $(ARGS); acts=$$?; \
	wait $$long; found=$$?; tail -n 60 build/long.log; exit $$((acts | found))

lint: .venv/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: .venv/all ## make ./.venv with everything

debian: ## install the Debian packages that live tests and bench-live need (as root)
	@dpkg -s $(APT_PACKAGES) >/dev/null 2>&1 || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(APT_PACKAGES) >/dev/null; }

debian-bench: ## install the Debian packages that bench-host compares with (as root); none of them is started
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends collectd-core netdata-core prometheus-node-exporter >/dev/null

bench: bench-agent bench-belief bench-console bench-crash bench-decide bench-drift bench-forecast bench-gpu bench-host bench-ingest bench-otlp bench-prometheus bench-replay bench-verify $(if $(HOMEOSTAT_BENCH_DATA),bench-detect bench-rca) ## all benchmarks; figures in build/bench/

bench-belief: .venv/all ## six acts of belief, done to the agent itself: six minutes
	HOMEOSTAT_BELIEF=all $(BIN)/pytest -q -m slow tests/agent/test_demo_belief.py

bench-agent: .venv/all ## RSS, CPU and series of the daemon, beside node_exporter
	$(BIN)/python tests/bench/agent.py

bench-console: .venv/all ## bytes of the console, and how soon it is there with 1,000 series and 100 incidents
	$(BIN)/python tests/bench/console.py

bench-crash: .venv/all ## kill -9 at every point of a run, on SQLite and PostgreSQL
	HOMEOSTAT_CRASH=all $(BIN)/pytest -q -n 2 tests/live/test_crash.py tests/live/test_crash_matrix.py

bench-decide: .venv/all ## how long a decision takes with 500 playbooks and 50 incidents a second
	$(BIN)/python tests/bench/decide.py $(ARGS)

bench-detect: .venv/bench build/rivals ## detection on labelled data (HOMEOSTAT_BENCH_DATA=DIR), beside rivals
	$(BIN)/python tests/bench/detect.py $(ARGS)

# Not part of `bench`: it takes 85 minutes, and as root it mounts a file and lays a cable into a namespace.
bench-live: .venv/all ## an hour of ordinary work on this host, then real faults: 85 minutes, best as root
	$(BIN)/python tests/bench/live.py $(ARGS)

bench-rca: .venv/bench ## root causes on labelled incidents (HOMEOSTAT_BENCH_DATA=DIR), beside rivals
	$(BIN)/python tests/bench/rca.py $(ARGS)

bench-drift: .venv/bench build/rivals build/nannyml build/evidently ## drift, causes, unlabelled accuracy and cost, beside rivals
	$(BIN)/python tests/bench/drift.py $(ARGS)

bench-host: .venv/all ## what a series of the host costs, beside Netdata, node_exporter and collectd (`make debian-bench` installs them)
	$(BIN)/python tests/bench/host_cost.py $(ARGS)

bench-gpu: .venv/all ## what looking at GPUs costs a GPU, through the driver or a stand-in for NVML
	$(BIN)/python tests/bench/gpu_poll.py $(ARGS)

bench-ingest: .venv/all ## predictions over HTTP: records a second, and how late ticks get
	$(BIN)/python tests/bench/ingest.py $(ARGS)

bench-otlp: .venv/all ## OTLP metrics of each shape: points a second on one core, beside a plain decode of the same bytes
	$(BIN)/python tests/bench/otlp.py $(ARGS)

bench-prometheus: .venv/all ## CPU of a pull of 10,000 series from a real Prometheus, beside a data frame of the same
	$(BIN)/python tests/bench/prometheus_pull.py $(ARGS)

bench-forecast: .venv/all ## forecasts of made-up fills, beside Prometheus' predict_linear
	$(BIN)/python tests/bench/forecast.py $(ARGS)

bench-replay: .venv/all ## recorded time: rows and cells a second, and how much faster than it went
	$(BIN)/python tests/bench/replay.py $(ARGS)

bench-verify: .venv/all ## verdicts on made-up series in which we know whether the act did it
	HOMEOSTAT_VERIFY=all $(BIN)/pytest -q -n 2 -m long tests/bench/test_verify_worlds.py
	$(BIN)/python tests/bench/verify.py $(ARGS)

boards: .venv/all ## build the Grafana boards anew from dashboards/boards
	$(BIN)/python -m dashboards.boards

readme: .venv/all ## put what there is into the tables of README, docs/actions.md and docs/settings.md
	$(BIN)/python -m agent.shelf README.md docs/actions.md docs/settings.md

dist: .venv/all ## build the wheel and the source archive into dist/
	$(PIP) build && $(BIN)/python -m build --outdir dist .

clean: ## remove what was built, not what was learnt
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/pip:
	$(PYTHON) -m venv .venv

# The daemon alone: small and quick to install.
.venv/core: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP) --editable .
	@touch $@

.venv/all: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP) --editable '.[all,dev]'
	@touch .venv/core $@

.venv/bench: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP) --editable '.[all,dev,bench]'
	@touch .venv/core .venv/all $@

# What others bring, beside us, in environments of their own. Where one can not be had the benchmark says so.
build/rivals build/nannyml build/evidently: build/%: tests/bench/%.txt
	-$(PYTHON) -m venv $@ && $@/bin/pip --disable-pip-version-check install --quiet --requirement $< || rm -rf $@
	-@touch -c $@

# What tests need beside us and Debian: pinned to the last package, so that it is quick to install.
build/outside: tests/live/outside.txt | .venv/bin/pip
	-$(PYTHON) -m venv --without-pip $@ && $(BIN)/pip --disable-pip-version-check --python $@/bin/python install --quiet --no-deps --no-compile --requirement $< || rm -rf $@
	-@touch -c $@

# Grafana's own types, and node to check the boards against them: pinned, as above.
build/schema: tests/dashboards/schema/package-lock.json tests/dashboards/schema/node.txt | .venv/bin/pip
	-$(PYTHON) -m venv --without-pip $@ && $(BIN)/pip --disable-pip-version-check --python $@/bin/python install --quiet --no-deps --requirement tests/dashboards/schema/node.txt && cp tests/dashboards/schema/package*.json $@ && PATH="$(CURDIR)/$@/bin:$$PATH" $@/bin/npm --prefix $@ ci --ignore-scripts --no-audit --no-fund --silent || rm -rf $@
	-@touch -c $@
