# Everything that a user types. `make run` and `make test` work on a fresh machine.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
RUN ?= runs/example

.PHONY: install run test lint serve submit lock reference docs clean

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -e '.[dev,openvino,onnx,cloud,docs]'
	touch $(STAMP)

run: install
	$(PY) -m pipeline run run.dir=$(RUN)

test: install
	$(PY) -m pytest

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy policies pipeline serve tests benchmarks

serve: install
	$(PY) -m pipeline serve

# make submit ADDRESS=http://127.0.0.1:8265 STAGE=run ARGS="run.root=/shared/runs run.name=mine"
submit: install
	$(PY) -m pipeline submit $(ADDRESS) $(STAGE) $(ARGS)

lock: install
	$(PY) -m pipeline.lock > requirements.lock.tmp
	mv requirements.lock.tmp requirements.lock

# docs/configuration.md, from the models and conf/
reference: install
	$(PY) -m pipeline.config_reference > docs/configuration.md.tmp
	mv docs/configuration.md.tmp docs/configuration.md

# The site, in site/; broken links and references are errors.
docs: install
	$(VENV)/bin/mkdocs build --strict

clean:
	rm -rf build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
