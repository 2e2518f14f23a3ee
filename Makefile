# Needs make and Python 3.10 or newer; everything else is installed into .venv.
PYTHON ?= python3
KERNEL ?= 127.0.0.1:9000
BACKENDS = debug dummy

# For torch without CUDA where pip finds the other one: --index-url https://download.pytorch.org/whl/cpu
TORCH_FROM ?=

# The versions that the tests run with, and that build.py takes, too.
TESTED = kuwa_min/packing/wheels/constraints.txt
LLAMA = $$(sed -n 's/^llama-cpp-python==//p' $(TESTED))

VENV = .venv
BIN = $(VENV)/bin
# One more than there are processors, as many tests wait for servers; 4 at most, for their memory.
WORKERS = $$(count=$$(getconf _NPROCESSORS_ONLN); echo $$((count < 3 ? count + 1 : 4)))
PYTEST = $(BIN)/python -m pytest -n $(WORKERS)
# Two of pip at once would spoil an environment, and mypy would read packages by halves.
IN_TURN = flock $(VENV)/python-ready
unexport PYTHONDONTWRITEBYTECODE # tests start hundreds of processes with the same modules
SOURCES = $(shell find kuwa_min backends -name '*.py' -o -path '*/kernel/page/*.*') build.py

# The model of make demo; any other GGUF file will do: make demo DEMO_MODEL=model.gguf
SMALL_MODEL = build/models/SmolLM2-135M-Instruct.Q4_1.gguf
DEMO_MODEL ?= $(SMALL_MODEL)

.PHONY: run demo build test check lint heavy vulkan cloud models cuda bench bench-heavy bench-huggingface \
  bench-llamacpp bench-real bench-chatgpt bench-gpu soak browser npm ssh-keygen mutation raise-versions clean

run: build ## build, start an executor with its own Kernel, and say where the chat page is
	$(PYTHON) dist/kuwa-dummy.pyz dummy --embedded_kernel $(KERNEL) --concurrent_req_limit 4

demo: $(DEMO_MODEL) dist/kuwa-llamacpp.pyz ## the same with a small real model; compiles llama.cpp once
	$(PYTHON) dist/kuwa-llamacpp.pyz llamacpp --model_path $(DEMO_MODEL) --embedded_kernel $(KERNEL) \
	  --concurrent_req_limit 4 --temperature 0.2 # at a higher one, a small model is incoherent

build: $(BACKENDS:%=dist/kuwa-%.pyz)

dist/kuwa-%.pyz: $(VENV)/build-ready $(SOURCES)
	$(BIN)/python build.py $*

$(SMALL_MODEL): | $(VENV)/build-ready
	$(BIN)/python -m kuwa_min.packing.wheels.indexed_model $@

test: $(VENV)/test-ready ## everything: lint, types, all tests
	$(MAKE) --jobs 4 browser npm ssh-keygen lint heavy cloud models cuda # downloads and lint while llama.cpp is compiled
	$(PYTEST)

check: $(VENV)/test-ready lint ## for every commit: lint, types, the tests that take seconds
	$(PYTEST) -q -m "not slow" --durations=10 --durations-min=0.5

raise-versions: $(VENV)/test-ready ## resolve the newest, run all tests, keep the versions if they pass
	$(BIN)/python -m kuwa_min.packing.raise_versions $(MAKE) test

mutation: .venv-mutation/ready ## whether the unit tests of some modules notice faults, half an hour
	.venv-mutation/bin/mutmut run
	.venv-mutation/bin/mutmut results
	.venv-mutation/bin/python benchmarks/mutation.py

lint: $(VENV)/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(IN_TURN) $(BIN)/mypy

heavy: build/torch/ready build/wheels/llama-ready $(VENV)/heavy-ready ## torch, transformers, llama.cpp

vulkan: heavy ## llama.cpp for Vulkan, and its tests on a software device; Debian 13 or newer
	@dpkg -s libvulkan-dev glslc spirv-headers mesa-vulkan-drivers >/dev/null 2>&1 \
	  || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y \
	  --no-install-recommends libvulkan-dev glslc spirv-headers mesa-vulkan-drivers; } \
	  || echo "install libvulkan-dev, glslc, spirv-headers and mesa-vulkan-drivers, or set VULKAN_SDK"
	$(BIN)/python build.py llamacpp --vulkan --output dist/vulkan
	$(PYTEST) -n0 tests/backends/llamacpp/test_vulkan.py

cloud: build/wheels/cloud-ready $(VENV)/cloud-ready ## the SDKs of chatgpt and geminipro

models: $(VENV)/test-ready ## real small models for tests and benchmarks, 350 MB
	$(BIN)/python -m tests.support.models.real_models

cuda: $(VENV)/test-ready ## NVIDIA's compiler, for a test that compiles with it, 104 MB
	@$(BIN)/python -m tests.support.cuda_compiler \
	  || echo "NVIDIA's compiler was not fetched: the test that compiles with it will be skipped"

build/wheels/cloud-ready: $(VENV)/test-ready $(TESTED)
	$(BIN)/python build.py chatgpt geminipro
	touch $@

build/torch/ready: $(VENV)/test-ready $(TESTED)
	$(BIN)/pip download --quiet --no-deps $(TORCH_FROM) -d build/torch -c $(TESTED) torch
	touch $@

build/wheels/llama-ready: $(VENV)/test-ready $(TESTED) ## compiles for ten minutes, once
	$(BIN)/python build.py llamacpp
	touch $@

$(VENV)/torch-ready: build/torch/ready
	$(IN_TURN) $(BIN)/pip install --quiet --no-compile --find-links build/torch $(TORCH_FROM) \
	  -c $(TESTED) --editable '.[heavy]'
	touch $@

$(VENV)/heavy-ready: build/wheels/llama-ready $(VENV)/torch-ready
	$(IN_TURN) $(BIN)/pip install --quiet -c $(TESTED) \
	  $$(ls -t build/wheels/llama-cpp-python-*/$(LLAMA)/*.whl | head -1)
	touch $@

bench: build ## ratios against bare sockets and against FastAPI with uvicorn
	$(MAKE) .venv-bench/ready
	.venv-bench/bin/python benchmarks/run.py

soak: build ## half an hour of hostile clients and a faulty Kernel; nothing may be left behind
	$(BIN)/python benchmarks/soak.py

bench-heavy: ## what one large file costs; downloads its wheels once, needs 12 GB of disk
	$(MAKE) .venv-bench/ready
	.venv-bench/bin/python benchmarks/package.py

bench-huggingface: ## against the library's own loops and transformers serve, ten minutes
	$(MAKE) .venv-bench-huggingface/ready
	.venv-bench-huggingface/bin/python benchmarks/huggingface.py

bench-llamacpp: ## against bare llama_decode loops and llama.cpp's own server, ten minutes
	$(MAKE) .venv-bench-llamacpp/ready
	.venv-bench-llamacpp/bin/python benchmarks/llamacpp.py

bench-real: ## llamacpp against llama.cpp's own server, with real models, ten minutes
	$(MAKE) .venv-bench-llamacpp/ready
	.venv-bench-llamacpp/bin/python benchmarks/real_models.py

bench-chatgpt: $(VENV)/cloud-ready ## against the bare SDK and bare sockets
	$(BIN)/python benchmarks/chatgpt.py

bench-gpu: ## decoding on a graphics card; PYTHON has torch, transformers, llama.cpp for it
	$(PYTHON) benchmarks/gpu.py

browser: ## the page's tests need Chromium; without it they are skipped, and say so
	@command -v chromium chromedriver >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq \
	  && apt-get install -qq -y --no-install-recommends chromium chromium-driver; } \
	  || echo "no Chromium here: the tests of the chat page will be skipped"

npm: browser ## the chat page's libraries are npm packages; without them it shows plain text
	@command -v npm >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq \
	  && apt-get install -qq -y --no-install-recommends npm; } \
	  || echo "no npm here: the chat page will show plain text, and its tests will be skipped"

ssh-keygen: npm ## the tests of signed kits need it, and are skipped without it; apt-get by turns
	@command -v ssh-keygen >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq \
	  && apt-get install -qq -y --no-install-recommends openssh-client; } \
	  || echo "no ssh-keygen here: the tests of signed kits will be skipped"

$(VENV)/python-ready:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV) || { test "$$(id -u)" = 0 && apt-get update -qq \
	  && apt-get install -qq -y python3-venv && $(PYTHON) -m venv $(VENV); }
	touch $@

$(VENV)/build-ready: $(VENV)/python-ready pyproject.toml
	$(BIN)/pip install --quiet --editable '.[build]'
	touch $@

$(VENV)/test-ready: $(VENV)/python-ready pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test,check]'
	touch $@

$(VENV)/cloud-ready: $(VENV)/test-ready $(TESTED)
	$(IN_TURN) $(BIN)/pip install --quiet --no-compile -c $(TESTED) --editable '.[cloud]'
	touch $@

.venv-bench-huggingface/ready: benchmarks/requirements-huggingface.txt build/torch/ready
	$(PYTHON) -m venv .venv-bench-huggingface
	.venv-bench-huggingface/bin/pip install --quiet --find-links build/torch $(TORCH_FROM) \
	  -r benchmarks/requirements-huggingface.txt
	touch $@

.venv-bench-llamacpp/ready: benchmarks/requirements-llamacpp.txt build/wheels/llama-ready
	$(PYTHON) -m venv .venv-bench-llamacpp
	.venv-bench-llamacpp/bin/pip install --quiet \
	  $$(ls -t build/wheels/llama-cpp-python-*/$(LLAMA)/*.whl | head -1) \
	  -r benchmarks/requirements-llamacpp.txt
	touch $@

.venv-mutation/ready: pyproject.toml
	$(PYTHON) -m venv .venv-mutation
	.venv-mutation/bin/pip install --quiet --editable '.[mutation]'
	touch $@

.venv-bench/ready: benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf dist build mutants *.egg-info $(VENV) .venv-mutation .venv-bench .venv-bench-huggingface \
	  .venv-bench-llamacpp
