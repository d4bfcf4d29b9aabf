# make test | lint | demo | prove-m1 | prove-m2 | prove-m3 | prove-m4 | prove-tpu | prove-gpu | prove-m5:
# each creates
# .venv, installs the pinned packages, does its job.
# A second call finds the stamps in .venv and starts at once. PYTHON=python3.12 picks another Python.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
PYTEST_ARGS ?=

.PHONY: test lint unit demo prove-m1 prove-m2 prove-m3 prove-m4 prove-tpu prove-gpu prove-m5 clean

test: lint unit

lint: .venv/stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: .venv/stamp-test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

demo: .venv/stamp-run
	$(BIN)/python -m train.demo

# The measurements and long checks behind the README's numbers, about an hour on two cores.
prove-m1: .venv/stamp-test
	mkdir -p results/m1
	$(BIN)/python -m train.evaluate --mixed 300 --out runs/prove-m1/default
	cp runs/prove-m1/default/report.md results/m1/default.md
	gzip -9 -n -c runs/prove-m1/default/queries.jsonl > results/m1/default-queries.jsonl.gz
	$(BIN)/python -m train.demo --workdir runs/prove-m1/demo
	cp runs/prove-m1/demo/evaluation/report.md results/m1/demo.md
	$(BIN)/python -m pytest -rP > runs/prove-m1/tests.txt
	tail -n 1 runs/prove-m1/tests.txt > results/m1/tests.txt

# Builds the three datasets from their sources (about half an hour), checks every item of them, opens
# the evaluation's page in a browser, and mines 2,000 queries unbroken and killed. Needs Debian 12,
# poppler-utils, npm and chromium.
prove-m2: .venv/stamp-test
	mkdir -p results/m2 runs/prove-m2
	for name in sci design symbols; do \
		$(BIN)/python -m unirank_jax.datasets.build $$name --out runs/prove-m2/$$name \
			--raw runs/prove-m2/raw > runs/prove-m2/$$name.json && \
		{ grep '"content_hash"' runs/prove-m2/$$name.json; \
			$(BIN)/unirank data check runs/prove-m2/$$name; } > results/m2/data-$$name.txt || exit 1; \
	done
	$(BIN)/python -m pytest tests/prove_report.py tests/prove_mining.py -rsP > runs/prove-m2/tests.txt
	sed -n '/^unbroken/,/kills, complete/{/jsonl.gz/!{/^$$/!p}}; /^=.* in .*=$$/p' runs/prove-m2/tests.txt \
		> results/m2/proofs.txt

# What scoring and a training step cost: on an idle machine with 16 GiB, nothing else running. A run
# that is void or misses its aim goes on with the next one; the files say so.
prove-m3: .venv/stamp-test
	mkdir -p results/m3 runs/prove-m3
	for name in invariance scaling int8 training scoring; do \
		$(BIN)/python -m benchmarks.$$name --out runs/prove-m3/$$name.json \
			> results/m3/$$name.txt || echo "$$name: see results/m3/$$name.txt"; \
		cp runs/prove-m3/$$name.json results/m3/; \
	done

# What alignment gains, with its controls, on the datasets of prove-m2: a day of two cores. Every
# command goes on where it was stopped.
M4 := runs/prove-m4
STUDY = $(BIN)/python -m train.study --jobs 2
prove-m4: .venv/stamp-test
	mkdir -p results/m4 $(M4)
	for domain in sci design; do for form in image text; do \
		base=base; test $$domain = sci || base=results/m2/design-base; \
		$(BIN)/python -m train.sft --config configs/$$domain.py:as_$$form --set \
			data.source=runs/prove-m2/$$domain model.init=$$base schedule.steps=250 \
			--workdir $(M4)/$$domain-as-$$form || exit 1; \
	done; done
	for domain in sci design; do \
		$(STUDY) --config configs/$${domain}_study.py --workdir $(M4)/$$domain --set \
			source=runs/prove-m2/$$domain others.as-image=$(M4)/$$domain-as-image:image \
			others.as-text=$(M4)/$$domain-as-text:text || exit 1; \
		cp $(M4)/$$domain/table.md results/m4/$$domain.md; \
		cp $(M4)/$$domain/table.json results/m4/$$domain.json; \
	done
	for name in noisy unlabelled top; do \
		$(STUDY) --config configs/settings_study.py:$$name --workdir $(M4)/$$name --set \
			source=runs/prove-m2/sci mined=$(M4)/sci || exit 1; \
	done
	$(STUDY) --config configs/settings_study.py:hard --workdir $(M4)/hard --set \
		source=runs/prove-m2/sci
	$(BIN)/python -m train.studies $(M4)/noisy $(M4)/unlabelled $(M4)/top $(M4)/hard \
		--out results/m4/settings.md
	$(STUDY) --config configs/ablations_study.py --workdir $(M4)/ablations --set \
		source=runs/prove-m2/sci mined=$(M4)/sci
	cp $(M4)/ablations/table.md results/m4/ablations.md

# The TPU compiler, without a TPU, about an hour: its wheel (130 MB) stays out of the environment.
prove-tpu: .venv/stamp-test
	$(PIP) --no-deps --upgrade --target runs/prove-tpu/wheel "libtpu==0.0.42.*"
	TPU_LIBRARY_PATH=runs/prove-tpu/wheel/libtpu/libtpu.so \
		$(BIN)/python -m pytest tests/prove_tpu_attention.py -rP
	$(BIN)/python -m pytest tests/prove_compile_only.py -rP
	mkdir -p results/m3
	TPU_LIBRARY_PATH=runs/prove-tpu/wheel/libtpu/libtpu.so \
		$(BIN)/python -m benchmarks.tpu --out runs/prove-tpu/tpu.json > results/m3/tpu.txt
	cp runs/prove-tpu/tpu.json results/m3/
	mkdir -p results/m5
	TPU_LIBRARY_PATH=runs/prove-tpu/wheel/libtpu/libtpu.so \
		$(BIN)/python -m benchmarks.pods --out runs/prove-tpu/pods.json > results/m5/pods.md
	cp runs/prove-tpu/pods.json results/m5/

# On a machine with an NVIDIA GPU of 80 GB: cuDNN's attention against the dense
# reference, and the 2B shape against transformers on the same card.
prove-gpu: .venv/stamp-test
	$(PIP) '.[cuda]'
	mkdir -p results/m3 runs/prove-gpu
	JAX_PLATFORMS=cuda $(BIN)/python -m pytest tests/prove_gpu_attention.py -rP
	$(BIN)/python -m benchmarks.gpu --model runs/prove-gpu/2b --out runs/prove-gpu/gpu.json \
		> runs/prove-gpu/gpu.txt
	cp runs/prove-gpu/gpu.json runs/prove-gpu/gpu.txt results/m3/

# Runs over several devices and processes, kills at random moments, and what a published size takes
# of host memory: half an hour, 13 GiB of memory, 9 GB of disk.
prove-m5: .venv/stamp-test
	mkdir -p results/m5 runs/prove-m5
	$(BIN)/python -m pytest tests/prove_processes.py -rP > runs/prove-m5/processes.txt; \
		status=$$?; grep -E "^(sft|align|the other|mining|[0-9]+ kills|=+ [0-9]+ (passed|failed))" \
		runs/prove-m5/processes.txt > results/m5/processes.txt; exit $$status
	$(BIN)/python -m benchmarks.memory --out results/m5/memory.json

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found; install one or say make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot create a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }

.venv/stamp-run: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/stamp-test: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[test,data]'
	@touch $@ .venv/stamp-run

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
