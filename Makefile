# Python 3.11 or newer is all that has to be there.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Random weights in the shape of SAM ViT-B, which bench-full exports once.
VIT_B = $(HOME)/.cache/samsdk/random-vit-b
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test lint format bench bench-full

# torch comes first and by its exact version: a range would bring another build, gigabytes larger. Set the index that
# holds the CPU build in pip's own settings if yours does not have it.
$(BIN)/.torch: constraints.txt
	@echo "making the virtual environment $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@echo "installing torch" >&2
	@$(PIP) torch==2.13.0
	@touch $@

$(BIN)/.setup: pyproject.toml constraints.txt $(BIN)/.torch
	@echo "installing samsdk with its export room" >&2
	@$(PIP) --editable '.[export]'
	@touch $@

$(BIN)/.test: $(BIN)/.setup
	@echo "installing what the tests need" >&2
	@$(PIP) --editable '.[test]'
	@touch $@

$(BIN)/.lint: $(BIN)/.setup
	@$(PIP) --editable '.[test,lint]'
	@touch $@

setup: $(BIN)/.setup

demo: $(BIN)/.setup
	@$(BIN)/python docs/demo.py

test: $(BIN)/.test
	$(BIN)/python -m pytest

lint: $(BIN)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sdk/samsdk kernels/samsdk_kernels training/samsdk_training export/samsdk_export
	$(BIN)/lint-imports

format: $(BIN)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# DATA=<folder of labelled sets> measures Dice beside every speed. Peers that cannot be installed are named in the table.
bench: $(BIN)/.test
	-$(BIN)/python benchmarks/peers/install.py
	$(BIN)/python benchmarks/side_by_side.py $(if $(DATA),--data $(DATA))
	$(BIN)/python benchmarks/side_by_side_pictures.py
	$(BIN)/python benchmarks/report.py

bench-full: $(BIN)/.test
	-$(BIN)/python benchmarks/peers/install.py
	$(BIN)/python benchmarks/random_vit_b.py $(VIT_B)
	$(BIN)/python benchmarks/side_by_side.py --full --bundle sam-vit-b=$(VIT_B) $(if $(DATA),--data $(DATA))
	$(BIN)/python benchmarks/soak.py $(if $(DATA),--data $(DATA))
	$(if $(DATA),$(BIN)/python benchmarks/accuracy.py --data $(DATA))
	$(BIN)/python benchmarks/side_by_side_pictures.py
	$(BIN)/python benchmarks/report.py
