PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test chaos lint sbom bench bench-speed bench-growth

run: .venv/installed
	@exec $(BIN)/python -m flask --app wsgi serve

# For a user who may not install packages, .venv/chromium holds the browser and a library of its driver.
PYTEST = PATH="$(CURDIR)/.venv/chromium:$$PATH" LD_LIBRARY_PATH="$(CURDIR)/.venv/chromium/lib" $(BIN)/python -m pytest

test: .venv/installed-tests
	@tests/browser/get-chromium
	@tests/intake/get-alertmanager
	@tests/get-pgbouncer
	@$(PYTEST)

# What takes too long for each change: kills, faults, crowds and clocks, and every case of what make test takes a share of.
chaos: .venv/installed-tests
	@tests/browser/get-chromium
	@$(PYTEST) --chaos -n 0 -s tests/chaos tests/test_attacks.py tests/test_costs.py tests/test_model.py tests/api/test_alerts.py tests/browser/test_accessibility.py \
		tests/delivery/test_faults.py tests/delivery/test_neighbours.py tests/delivery/test_order.py tests/delivery/test_stopping.py \
		tests/ops/test_front.py tests/test_killed.py tests/ops/test_serve.py::test_what_was_confirmed_survives_kill_9

# Bandit's stderr only lists the parts of a statement that a nosec was not needed for; what it finds goes to stdout.
lint: .venv/installed-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive contacts_app wsgi.py 2>/dev/null

# The bill of materials, in CycloneDX's JSON; the same requirements give the same file.
sbom: SBOM = build/sbom.json
sbom: .venv/installed-tests
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/cyclonedx-py requirements --output-reproducible --output-format JSON --output-file $(SBOM) requirements.txt

# Takes minutes and the whole machine; BENCH_SECONDS=60 watches the deliveries for a minute only.
bench: .venv/installed-tests
	@$(BIN)/python -W ignore -m tests.bench.burst $(BENCH_SECONDS)
	@$(MAKE) --no-print-directory bench-speed

# Takes ten minutes and the whole machine; SPEED="--rounds 1 --seconds 1" takes one.
bench-speed: .venv/installed-bench
	@$(BIN)/python -W ignore -m tests.bench.speed $(SPEED)

# 10 million contacts: takes minutes, the whole machine and 8 GB of disk; GROWTH="1000 10000" grows to a million only.
bench-growth: .venv/installed-bench
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
