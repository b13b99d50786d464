# Two commands are enough: `make demo` and `make test`. Each makes .venv first if needed.
# Paths are relative to this folder, so that its own path may hold spaces and be long.

PYTHON ?= python3
PY := .venv/bin/python
RECIPE ?= jobs.flights:demo
# The rings without Ray; a file stays on one core, so that what its tests share is made once.
EVERY_CORE := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# Settings of the caller that would make Python look elsewhere for packages.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
export PYTHONNOUSERSITE := 1

.DEFAULT_GOAL := help
.PHONY: help env demo up down status doctor test test-local test-whole prove prove-demo prove-interruptions prove-rollouts prove-serving prove-models prove-data prove-streams prove-clusters bench-serving bench-batch bench-data bench-features prove-features prove-training bench-training bench-gpu image-pin test-unit lint format check-fresh clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

env: ## Make or complete .venv (the other targets do so themselves)
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "heliostat: needs CPython 3.11 with its venv module; on Debian or Ubuntu: sudo apt-get install python3.11-venv" >&2; exit 2; }
	@"$(PYTHON)" -I platform/heliostat/stack/bootstrap.py

demo: env ## Run the main job: raw data to a model that earned its traffic
	@$(PY) -m heliostat plan --recipe "$(RECIPE)" >/dev/null
	@$(PY) -m heliostat up
	@$(PY) -m heliostat submit --recipe "$(RECIPE)" -- jobs/pipeline.py

up: env ## Start the local platform (idempotent)
	@$(PY) -m heliostat up

down: ## Stop what `make up` or `make demo` started
	@if [ -x $(PY) ]; then $(PY) -m heliostat down; else echo "nothing runs: there is no .venv"; fi

status: env ## Say what runs, and where
	@$(PY) -m heliostat status

doctor: env ## Check versions, ports, disk and memory; say the fix for each finding
	@$(PY) -m heliostat doctor

test: test-unit ## Pass every test but benchmarks and long proofs
	@$(MAKE) --no-print-directory --jobs=2 test-whole test-local

# These two wait for much of their time, so `make test` runs them side by side; a test that brings
# a Ray of its own is where it makes both equally long.
test-local: env ## Pass the tests on one shared Ray
	@$(PY) -m pytest --quiet tests/local --ignore tests/local/test_serving_story.py

test-whole: env ## Pass the tests on a whole platform
	@$(PY) -m pytest --quiet tests/e2e tests/local/test_serving_story.py

prove: env ## Run the long proofs that `make test` leaves out
	@$(PY) -m pytest -m proof tests/unit tests/local tests/e2e

prove-demo: env ## Run the main job from no state and keep its figures in tests/bench/results
	@PYTHONPATH=platform:. $(PY) -m tests.bench.demo

prove-interruptions: env ## Kill and stop the main job in every stage, and let it go on
	@PYTHONPATH=platform:. $(PY) -m tests.bench.interruptions

bench-batch: env ## Score 10 M rows in a batch and by a hand-written loop, in turn
	@PYTHONPATH=platform:. $(PY) -m tests.bench.batch

bench-features: env ## Measure features beside Feast, raw Redis and Polars (needs redis-server)
	@PYTHONPATH=platform:. $(PY) -m tests.bench.features

prove-features: env ## Join 1 and 20 M rows on Ray; keep time per row and memory
	@PYTHONPATH=platform:. $(PY) -m tests.bench.features large

prove-models: env ## Alter a package in 1,020 ways; take three files from CSV to a canaried model
	@PYTHONPATH=platform:. $(PY) -m tests.bench.tampering
	@$(PY) -m pytest -m "proof or not proof" tests/e2e/test_new_workload.py tests/e2e/test_jobs.py

bench-data: env ## Measure ingest beside a Polars script, and upkeep, in one table
	@$(PY) tests/bench/data.py

prove-data: env ## Ingest 1, 10 and 20 M rows, kill writers 20 times each; keep the figures
	@$(PY) tests/bench/data.py --rows 1000000 10000000 20000000 --versions 2000 --kills 20 --keep

prove-training: env ## Kill workers, drivers and searches of trainings; keep what came of it
	@PYTHONPATH=platform:. RAY_AUTH_MODE=disabled $(PY) -m tests.bench.training --parts kills ends search

bench-training: env ## Measure training beside torchrun, the cost of logging, and streams
	@PYTHONPATH=platform:. RAY_AUTH_MODE=disabled $(PY) -m tests.bench.training --parts throughput logging stream $(BENCH)

bench-gpu: env ## Train and serve on one GPU beside plain torch and the CPU; says so where there is none
	@PYTHONPATH=platform:. RAY_AUTH_MODE=disabled $(PY) -m tests.bench.gpu $(BENCH)

prove-streams: env ## Count 1 M events through 10 rebalances and 5 SIGKILLs; time events to the online store
	@PYTHONPATH=platform:. $(PY) -m tests.bench.streams $(STREAMS)

prove-rollouts: env ## Count false alarms, detection, kills, outages and rollbacks of rollouts at full size
	@PYTHONPATH=platform:. $(PY) tests/bench/rollouts.py
	@PYTHONPATH=platform:. $(PY) -m tests.bench.rollout_proofs
	@PYTHONPATH=platform:. $(PY) -m tests.bench.rollbacks
	@PYTHONPATH=platform:. $(PY) -m tests.bench.rollout_outages

prove-serving: env ## Break the serving chain under load, send it what is bad, keep the counts (two hours)
	@PYTHONPATH=platform:. $(PY) -m tests.bench.run tests.bench.faults $(FAULTS)
	@PYTHONPATH=platform:. $(PY) -m tests.bench.run tests.bench.serving_long $(LONG)
	@PYTHONPATH=platform:. $(PY) -m tests.bench.run tests.bench.bad_requests $(CLIENTS)
	@PYTHONPATH=platform:. $(PY) -m tests.bench.run tests.bench.stock_clients $(CLIENTS)

bench-serving: env ## Measure the gateway beside a bare app and other servers (needs wrk), one table
	@PYTHONPATH=platform:. $(PY) -m tests.bench.hot_path
	@PYTHONPATH=platform:. $(PY) -m tests.bench.run tests.bench.serving $(BENCH)
	@PYTHONPATH=platform:. $(PY) -m tests.bench.run tests.bench.peers $(PEERS)

prove-clusters: env ## Judge 100 files and 5,000 broken manifests; run the rendered service and job here as root
	@$(PY) tests/bench/clusters.py --parts $(PARTS)

image-pin: ## Read the digest of IMAGE from its registry and print the line for the recipe
	@"$(PYTHON)" cluster_configs/image/pin.py "$(IMAGE)"

test-unit: env ## Pass the fast rings only: repo and unit
	@$(PY) -m pytest $(EVERY_CORE) tests/repo tests/unit

lint: env ## ruff over everything, mypy strict over platform, jobs, serve_apps
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: env ## Format all Python files
	@$(PY) -m ruff format .

check-fresh: ## Prove the two commands from a fresh clone in a long path with spaces
	@"$(PYTHON)" -E -s tests/bench/fresh.py $(FRESH)

clean: down ## Stop the platform and remove .heliostat and .venv
	@rm -rf .heliostat .venv
