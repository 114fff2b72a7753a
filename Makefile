# Every target does its own set-up: python3 and a C++17 compiler are enough. The second run is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without bytecode: what is imported is compiled then, and most never is.
INSTALL := $(BIN)/pip --disable-pip-version-check -q install --no-compile -c constraints.txt
# But kept then: some machines say that it is not to be, and every process would compile torch's sources again (4 s).
unexport PYTHONDONTWRITEBYTECODE
# Compiled without much optimisation: what this machine cannot run, and what it would run only if it were asked to.
CPU := $(shell grep -m1 '^flags' /proc/cpuinfo 2>/dev/null)
export FASTATTACK_LIGHT ?= $(if $(filter avx2,$(CPU)),portable $(if $(filter avx512vl,$(CPU)),,avx512))
SOURCES := setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test bench smoke lint wheel clean

demo: $(VENV)/built
	$(BIN)/fastattack attack --out out/demo --overwrite

test: $(VENV)/built
	$(BIN)/python -m pytest -n 2 --dist worksteal --benchmark-disable tests

bench: $(VENV)/built
	$(BIN)/fastattack bench --out out/bench --overwrite

smoke: $(VENV)/built
	$(BIN)/fastattack bench --quick --dtype float32 --no-compile --out out/smoke --overwrite

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict fastattack
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests/host -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

wheel: $(VENV)/built
	bash scripts/check_wheel.sh $(BIN)/python

$(VENV)/tools: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools wheel cmake ninja pybind11
	touch $@

# torch by itself and first: whatever depends on it then finds it there. torchattacks without what it asks for: torchvision,
# which brings another torch, and an old requests.
$(VENV)/torch: $(VENV)/tools
	$(INSTALL) torch==2.13.0
	touch $@

# The kernels need nothing of that: with -j they are compiled meanwhile, into the folder of the editable install.
$(VENV)/kernels: $(VENV)/tools $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" MAKEFLAGS= FASTATTACK_BUILD=build $(BIN)/python setup.py -q build_ext --inplace
	touch $@

$(VENV)/built: $(VENV)/torch $(VENV)/kernels
	PATH="$(CURDIR)/$(BIN):$$PATH" $(INSTALL) --no-build-isolation -e '.[dev]'
	$(INSTALL) --no-deps torchattacks
	touch $@

clean:
	rm -rf build dist out $(VENV) *.egg-info fastattack/*.so
