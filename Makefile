# Needs Python 3.11 or newer, and nothing else. Choose one with `make PYTHON=python3.12 test`.
PYTHON ?= python3
VENV ?= .venv
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest -n 2 --dist loadfile
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test thorough clean

help:
	@echo "make demo      de-identify the packaged example head, into demo/"
	@echo "make test      lint, type check and tests"
	@echo "make thorough  trainings and further whole ways, as long again"
	@echo "make clean     remove what these made"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cpmae needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# a built package and not a link to the sources: the demo shows what pip gives to others
demo: $(VENV)/bin/python
	$(PIP) .
	$(VENV)/bin/cpmae demo demo

test: $(VENV)/bin/python
	$(PIP) -e ".[test]"
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTEST)

# what `make test` leaves out to stay short
thorough: $(VENV)/bin/python
	$(PIP) -e ".[test]"
	$(PYTEST) -m thorough

clean:
	rm -rf $(VENV) demo
