# Set-up is pip in a virtual environment; running a target again reuses it.
PYTHON ?= python3.11
OTHER_PYTHONS = 3.12 3.13
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed

# Compiling the tests anew, with their asserts rewritten, takes each process of a run ten seconds and more: the byte code is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv up test test-pythons bench-seeds check lint format types clean

venv: $(STAMP)          ## the environment alone: .venv

up: $(STAMP)            ## a real local federation, one job, a report, a model in MLflow
	$(BIN)/fed up

# The real federations need the machine to themselves. They run even if something before them has failed.
test: $(STAMP)          ## everything: all but the real NVFlare federations in two processes, then these one by one
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not federation" -n 2 --dist loadfile; rest=$$?; \
	$(BIN)/python -m pytest -m federation; federations=$$?; \
	echo "make test: exit $$rest without the federations, exit $$federations with them"; \
	test $$rest -eq 0 && test $$federations -eq 0

test-pythons:           ## the base install's tests and `fed verify` on the other Pythons that this machine has
	$(PYTHON) -m tests.pythons $(OTHER_PYTHONS)

check: lint             ## for every commit: lint and the fast tests, under two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not federation and not slow" -p no:cacheprovider -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy crypto aggregator silo_agent jobs

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first: the pinned release, so that a CPU build already at hand is enough and nothing newer is fetched.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

bench-seeds: $(STAMP)   ## means over five seeds of the demonstration, with baselines
	$(BIN)/python -m tests.benchmarks.seeds

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

.PHONY: mutation fuzz

mutation: $(STAMP)      ## removes each check in turn: some test must fail every time; writes docs/mutation.md
	$(BIN)/python -m tests.mutation

fuzz: $(STAMP)          ## a million damaged messages: each must be refused with a named error
	$(BIN)/python -m tests.fuzz

.PHONY: evil diagrams

GAME ?= both-shares
evil: $(STAMP)          ## a malicious aggregator, or silo, on real NVFlare: GAME=both-shares … bad-member, or all
	$(BIN)/python -m tests.evil $(GAME)

diagrams: $(STAMP)      ## the state diagrams of docs/protocol.md, from the tables of crypto/session.py
	$(BIN)/python -m tests.diagrams

.PHONY: bench bench-peers bench-methods bench-liveness bench-trap

bench: $(STAMP)         ## speed of secure aggregation against this machine's limits
	$(BIN)/python tests/benchmarks/secagg.py --json

bench-liveness: $(STAMP) ## steps of a run that go through while silos drop out, with and without the rule of atoms
	$(BIN)/python -m tests.benchmarks.liveness --json

bench-trap: $(STAMP)    ## private rows that a lying aggregator or member reads by a trap in the model; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.trap --json

DATA ?= ../shared/data
bench-methods: $(STAMP) ## all methods, baselines and targets over five seeds, about an hour; writes docs/methods/measured.md
	$(BIN)/python -m tests.benchmarks.methods --suite full --data $(DATA) --page docs/methods/measured.md --json

PEERS = .venv-peers

bench-peers: $(STAMP) $(PEERS)/.installed  ## the same beside Flower's SecAgg+ and TenSEAL CKKS, in a separate environment
	$(BIN)/python tests/benchmarks/secagg.py --json --peers-python $(PEERS)/bin/python

$(PEERS)/.installed:
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet flwr==1.41.0 tenseal==0.3.15 numpy==2.4.6
	touch $@

.PHONY: images sbom

# root, buildah, crun, debootstrap; BASE_IMAGE=… to build on another base. See docs/images.md.
images:                 ## both container images, built, run together and listed with their sizes
	$(PYTHON) -m images.build
	$(PYTHON) -m images.trial

sbom:                   ## the bills of materials of the images that `make images` built: build/images/*.cdx.json
	$(PYTHON) -m images.build --bills-only

.PHONY: metrics-docs dashboards chart-docs

metrics-docs: $(STAMP)  ## docs/metrics.md, from the code that declares the metrics
	$(BIN)/python -m tests.metrics_page

dashboards: $(STAMP)    ## the charts' Grafana dashboards, from helm/dashboards.py
	$(BIN)/python -m helm.dashboards

chart-docs: $(STAMP)    ## the tables of values in the charts' READMEs
	$(BIN)/python -m tests.helm.readme
