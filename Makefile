PYTHON ?= python3
BIN := .venv/bin

.PHONY: help run dev test check chaos coverage lint format sbom bench bench-speed bench-delivery bench-growth

help: ## List all commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: .venv/installed ## Run the console: database, web server and delivery worker, until Ctrl-C.
	@exec $(BIN)/python -m flask --app wsgi serve

dev: .venv/installed-tests ## Run it for development: samples, reload on change, stand-ins that receive what it sends.
	@exec $(BIN)/python -m tests.dev

# For a user who may not install packages, .venv/chromium holds the browser and a library of its driver.
PYTEST = PATH="$(CURDIR)/.venv/chromium:$$PATH" LD_LIBRARY_PATH="$(CURDIR)/.venv/chromium/lib" $(BIN)/python $(MEASURE) -m pytest

test: .venv/installed-tests ## Run all tests.
	@tests/browser/get-chromium
	@tests/intake/get-alertmanager
	@tests/get-pgbouncer
	@$(PYTEST)

# What make check leaves out, beside single tests that are marked with pytest.mark.long.
LONG = tests/browser tests/cli tests/ops tests/core/test_postgres.py tests/delivery/test_faults.py \
	tests/delivery/test_limits.py tests/delivery/test_locks.py tests/delivery/test_neighbours.py tests/delivery/test_order.py \
	tests/intake/test_configurations.py tests/pages/accounts/test_browsers.py tests/test_attacks.py tests/test_costs.py \
	tests/test_dev.py tests/test_killed.py tests/test_model.py tests/test_plans.py

check: lint ## Lint, and run the tests that need neither a browser nor long runs of processes: a minute.
	@$(PYTEST) -m "not long" $(LONG:%=--ignore=%)

# What takes too long for each change: kills, faults, crowds and clocks, and every case of what make test takes a share of.
# What it measures goes into docs/measurements.md.
chaos: .venv/installed-tests ## Run what takes too long for each change: kills, faults, crowds, clocks, every case.
	@tests/browser/get-chromium
	@$(PYTEST) --chaos -n 0 -s tests/chaos tests/test_attacks.py tests/test_costs.py tests/test_model.py tests/api/test_alerts.py tests/browser/test_accessibility.py \
		tests/delivery/test_faults.py tests/delivery/test_neighbours.py tests/delivery/test_order.py tests/delivery/test_stopping.py \
		tests/ops/test_front.py tests/test_killed.py tests/ops/test_serve.py::test_what_was_confirmed_survives_kill_9

# Nothing fails here for what is not run. Costs are left out: their bounds on the processor's time are of unmeasured code.
# COVERED="tests/web tests/pages" takes only these.
coverage: MEASURE = -m coverage run
coverage: COVERED = tests --ignore=tests/test_costs.py
coverage: .venv/installed-tests ## Run all tests but those of costs, and print what of the code, branch by branch, they run.
	@tests/browser/get-chromium
	@tests/intake/get-alertmanager
	@tests/get-pgbouncer
	@rm -rf build/coverage
	-@$(PYTEST) $(COVERED)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

# Bandit's stderr only lists the parts of a statement that a nosec was not needed for; what it finds goes to stdout.
lint: .venv/installed-tests ## Check format, style, types and security.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive contacts_app wsgi.py 2>/dev/null

format: .venv/installed-tests ## Format the code, and fix what can be fixed by itself.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# In CycloneDX's JSON; the same requirements give the same file.
sbom: SBOM = build/sbom.json
sbom: .venv/installed-tests ## Write the bill of materials, build/sbom.json.
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/cyclonedx-py requirements --output-reproducible --output-format JSON --output-file $(SBOM) requirements.txt

# All write their tables into docs/measurements.md, whatever they leave out. BENCH_SECONDS=60 watches the deliveries for a minute only.
bench: .venv/installed-tests ## Measure a burst of alerts, then the speed of pages: minutes, and the whole machine.
	@$(BIN)/python -W ignore -m tests.bench.burst $(BENCH_SECONDS)
	@$(MAKE) --no-print-directory bench-speed

# SPEED="--rounds 1 --seconds 1" takes one minute.
bench-speed: .venv/installed-bench ## Measure the speed of pages beside the alternatives: ten minutes.
	@$(BIN)/python -W ignore -m tests.bench.speed $(SPEED)

# DELIVERY="--quick" takes half a minute: mails only, once, and where the time goes; DELIVERY="--rounds 1 --only mail,many".
# Only a run that leaves nothing out is written into docs/measurements.md.
bench-delivery: .venv/installed-bench ## Measure the speed of alerts beside the alternatives: ten minutes.
	@tests/intake/get-alertmanager
	@$(BIN)/python -W ignore -m tests.bench.delivery $(DELIVERY)

# GROWTH="1000 10000" grows to a million only.
bench-growth: .venv/installed-bench ## Measure 10 million contacts: minutes, and 8 GB of disk.
	@$(BIN)/python -W ignore -m tests.bench.growth $(GROWTH)
	@$(BIN)/python -W ignore -m tests.bench.account

.venv/installed: requirements.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing what requirements.txt names into .venv …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-tests: .venv/installed tests/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

.venv/installed-bench: .venv/installed-tests tests/bench/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
	@touch $@
