# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
RESULTS := leaderboard/results

.PHONY: demo test check docs leaderboard clean

demo: .venv/installed
	$(BIN)/unlearnbench run --suite nano-demo --out demo/results --workers 2 --threads 1
	$(BIN)/unlearnbench leaderboard build demo/results --out demo/leaderboard

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation, as a site that opens from its folder: site/index.html.
docs: .venv/installed
	$(BIN)/python docs/_pages/build.py

# The committed tables, rebuilt from the committed results.
leaderboard: .venv/installed
	$(BIN)/unlearnbench leaderboard build $(RESULTS) --out leaderboard --reported leaderboard/reported.yaml

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo site build dist *.egg-info
