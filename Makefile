# "make help" lists the targets. Every target installs what it needs first; only Python >= 3.11 and make are required.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python -m babyvlm
SIZE   ?= default
DATA   := data/playroom
WORLD  := $(DATA)/world
STORES := $(DATA)/stores
TRIALS := '[$(WORLD)/trials/labeled_s.csv,$(WORLD)/trials/vtwt.csv,$(WORLD)/trials/vtwt_natural.csv,$(WORLD)/trials/baby_winoground.csv,$(WORLD)/trials/caption.csv]'
LARGE  := data/playroom-large
CLEAN  := data/playroom-clean
PACKS  := data/icons
FIT    := $(RUN) fit --config configs/playroom/base.yaml
SCORE  := --config configs/benchmarks/playroom.yaml
HELD   := $(DATA)/held-out-recordings
STAMPS := $(wildcard /usr/share/tuxpaint/stamps)
BUILD  := $(RUN) benchmark build
MIXES  := filtered filtered-aug filtered-random aug-only

.DEFAULT_GOAL := help
.PHONY: help setup lock audit wheel demo data curate-large mixes benchmark-demo suites playroom-sprites playroom-clip playroom-dino playroom-floors probe report test soak check bench-matching bench-padding bench-features bench-loader bench-multi-crop bench-gpu bench-open-store

help: ## list all targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(VENV)/.ready ## create .venv with all dependencies (about 2 minutes, 6 GB)

# Where this platform was tested, the files of all packages are checked against their hashes; elsewhere, versions are fixed.
LOCK = requirements/$(shell $(PYTHON) -c 'import platform as p; print(p.system(), p.machine(), "py3", p.python_version_tuple()[1], sep="-")')
PIP := $(VENV)/bin/pip install --quiet

$(VENV)/.ready: pyproject.toml constraints.txt $(wildcard requirements/*.txt)
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "babyvlm needs Python >= 3.11; set PYTHON="'
	$(PYTHON) -m venv $(VENV)
	if [ -f $(LOCK).txt ]; then \
	    $(PIP) --no-deps --require-hashes -r $(LOCK)-build.txt && \
	    $(PIP) --no-deps --require-hashes --no-build-isolation -r $(LOCK).txt && \
	    $(PIP) --no-deps --no-build-isolation -e . ; \
	else \
	    echo 'no tested versions with hashes for this platform ($(LOCK).txt): installing the versions of constraints.txt'; \
	    $(PIP) -e '.[dev]' -c constraints.txt; \
	fi
	touch $@

TESTED := requirements/Linux-x86_64-py3-11
COMPILE := uv pip compile --quiet --generate-hashes --no-annotate --no-config --constraints constraints.txt \
    --python-version 3.11.5 --python-platform x86_64-manylinux_2_28 --default-index https://pypi.org/simple \
    --custom-compile-command 'make lock'

lock: ## write requirements/ again after a change of dependencies (needs uv)
	$(COMPILE) pyproject.toml --extra dev --output-file $(TESTED).txt
	printf 'hatchling\neditables\nsetuptools\nwheel\nnumpy\n' | $(COMPILE) - --output-file $(TESTED)-build.txt

audit: ## look up known vulnerabilities of all locked packages (needs pip-audit; AUDIT='-s osv --osv-url URL' for a mirror)
	@command -v pip-audit > /dev/null || { echo 'audit: pip-audit is not installed. Run: pip install pip-audit' >&2; exit 2; }
	@pip-audit --strict --disable-pip --require-hashes --progress-spinner off $(AUDIT) -r $(TESTED).txt \
	    -r $(TESTED)-build.txt || { echo 'audit: failed. The lines above name the vulnerable packages, or the package' \
	    'whose advisories could not be looked up' >&2; exit 1; }

data: setup ## create the Playroom world and curate it, from raw video to matched pairs (complete stages are skipped)
	$(RUN) demo --train false --size $(SIZE) --data $(DATA)

curate-large: setup ## like data, on a world five times as large, with integrity checks and a summary of all stages
	$(MAKE) data SIZE=large DATA=$(LARGE)
	$(RUN) store check --store $(LARGE)/stores/filtered
	$(RUN) store check --store $(LARGE)/stores/aug
	$(RUN) curate summarize --stores '[$(LARGE)/stores/filtered,$(LARGE)/stores/aug,$(LARGE)/stores/random]' --out $(LARGE)/funnel
	$(RUN) curate check-contamination --stores '[$(LARGE)/stores/filtered,$(LARGE)/stores/aug]' --out $(LARGE)/contamination \
	    --trials $(subst $(WORLD),$(LARGE)/world,$(TRIALS))

demo: setup ## complete pipeline on Playroom, from raw video to a benchmark table (less than 6 minutes on two cores)
	$(RUN) demo --size $(SIZE)

mixes: data ## train CVCL on each of the four mixes and print the table
	for mix in $(MIXES); do $(FIT) --config configs/playroom/cvcl.yaml --config configs/mix/$$mix.yaml $(SCORE) || exit 1; done
	$(RUN) report lightning_logs

.PHONY: ablations ablations-quick ablations-status demo-babyllava docs
NUM_WORKERS ?= 2
ABLATE := $(RUN) ablations

ablations: data ## train and test every row of the paper's tables, three seeds each (run again to resume)
	$(ABLATE) run --num_workers $(NUM_WORKERS)

ablations-quick: data ## like ablations, with one seed and shorter training, in lightning_logs/quick
	$(ABLATE) run --quick true --num_workers $(NUM_WORKERS)

ablations-status: setup ## show which runs are done, running, failed or missing
	$(ABLATE) status

demo-babyllava: data ## train CVCL and BabyLLaVA on the filtered pairs, score CLIP, and print the table
	$(ABLATE) run --quick true --num_workers $(NUM_WORKERS) --rows '[CVCL-filtered,BabyLLaVA-GPT2-filtered,Playroom-CLIP]'
	$(RUN) report lightning_logs/quick

suites: data ## build the lists of the further suites and score CLIP on them, on the four, and on photographs if installed
	$(BUILD) stand-ins --category_folders data/playroom/world/trials/labeled_s --out data/playroom/suites \
	    --exclude '[]' --licensed false
	$(BUILD) frequency-pairs --store data/playroom/stores/filtered --out data/playroom/frequency-pairs
	$(BUILD) held-out --store data/playroom/stores/frames --by child-and-age --out data/playroom/held-out
	$(RUN) test --config configs/eval/playroom-clip.yaml $(SCORE) --config configs/benchmarks/playroom-suites.yaml \
	    --config configs/benchmarks/held-out.yaml $(if $(STAMPS),--config configs/benchmarks/stamps.yaml)
	$(RUN) report lightning_logs

benchmark-demo: data ## build benchmarks from held-out recordings (with scripted reviewers) and score CLIP on them
	$(RUN) playroom --out $(HELD)/world --size $(SIZE) --seed 1
	$(RUN) curate frames --videos $(HELD)/world/home/videos --transcripts $(HELD)/world/home/transcripts \
	    --out $(HELD)/frames --profile playroom --image_size 112 --max_frames 2 --licensed false
	$(RUN) curate embed --store $(HELD)/frames --out $(HELD)/embeddings
	$(RUN) curate filter --store $(HELD)/frames --embeddings $(HELD)/embeddings --out $(HELD)/filtered
	$(BUILD) labeled-s --category_folders $(HELD)/world/trials/labeled_s --out $(HELD)/labeled-s --exclude '[]' --licensed false
	$(BUILD) phrase-pairs --store $(HELD)/filtered --split all --vocabulary $(DATA)/vocabulary --per_frame 2 --limit 200 \
	    --out $(HELD)/pairs
	$(VENV)/bin/python perf/scripted_review.py $(HELD)/pairs
	$(BUILD) negatives --pairs $(HELD)/pairs --out $(HELD)/negatives
	$(BUILD) assemble --labeled_s $(HELD)/labeled-s --pairs $(HELD)/pairs --negatives $(HELD)/negatives --out $(HELD)/benchmark
	for store in filtered aug random; do $(RUN) curate decontaminate --store $(STORES)/$$store --benchmark_images '[$(HELD)/benchmark]' \
	    --out $(HELD)/stores/$$store || exit 1; done
	$(RUN) test --config configs/eval/playroom-clip.yaml --config $(HELD)/benchmark/eval.yaml

playroom-sprites: setup ## render the sprite bank of Playroom from the npm packages in PACKS (needs npm and resvg_py)
	mkdir -p $(PACKS)
	cd $(PACKS) && npm pack $$($(CURDIR)/$(VENV)/bin/python -m babyvlm.playroom.build_sprites)
	$(VENV)/bin/python -m babyvlm.playroom.build_sprites $(PACKS)

playroom-clip: SIZE = clean
playroom-clip: setup ## train the CLIP model shipped in src/babyvlm/playroom/clip, on scenes of other households
	$(RUN) playroom --out $(CLEAN) --size $(SIZE)
	$(RUN) curate web --sources '[$(CLEAN)/clean]' --hold_out true --out $(STORES)/clean
	$(RUN) curate vocabulary --stores '[$(STORES)/clean]' --out $(DATA)/clip-vocabulary
	$(FIT) --config configs/playroom/clip.yaml --config configs/mix/clean.yaml
	cp lightning_logs/CLIP-clean/$$(ls -v lightning_logs/CLIP-clean | tail -1)/open_clip/* src/babyvlm/playroom/clip/

playroom-dino: data ## train the DINO backbone shipped in src/babyvlm/playroom/dino
	$(FIT) --config configs/playroom/dino.yaml --config configs/mix/frames.yaml $(SCORE)
	cp lightning_logs/DINO-frames/$$(ls -v lightning_logs/DINO-frames | tail -1)/backbone.* src/babyvlm/playroom/dino/

playroom-floors: data ## what colors and blurred pixels alone give on the benchmarks of Playroom
	$(RUN) test --config configs/eval/color-histogram.yaml $(SCORE)
	$(RUN) test --config configs/eval/pixels.yaml $(SCORE)

probe: data ## linear probe of the shipped DINO backbone, compared with random backbones
	$(VENV)/bin/python perf/probe.py --trials $(WORLD)/trials/labeled_s.csv

report: setup ## tables, figures and findings of all runs in lightning_logs (LOG_DIR=...), as one page in report/ (OUT=...)
	$(RUN) report $(or $(LOG_DIR),lightning_logs) --out $(or $(OUT),report)

# Many tests start an interpreter: they share compiled modules, whatever the caller's environment says.
test: setup ## run the tests (about 9 minutes on two cores)
	PYTHONDONTWRITEBYTECODE= $(VENV)/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: setup ## run the long tests
	$(VENV)/bin/pytest -m soak --timeout 3600

check: setup ## lint, check formatting and check types, as CI does
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench-matching: setup ## benchmark exact matching against scipy: time and memory
	$(VENV)/bin/python perf/matching.py --size small

bench-padding: data ## benchmark padding: batches in random order, batches by length, packed contexts
	$(VENV)/bin/python perf/padding.py --store $(STORES)/filtered
	$(VENV)/bin/python perf/padding.py --store $(STORES)/filtered --image_tokens 49

bench-features: setup ## benchmark epochs with and without cached features, CVCL and BabyLLaVA at paper size
	$(VENV)/bin/python perf/features.py

bench-loader: setup ## benchmark image loading: CVCL's transforms, ours, and decoding only
	$(VENV)/bin/python perf/loader.py

bench-multi-crop: setup ## benchmark DINO's views: by Pillow, by OpenCV, and in batches as on a GPU
	$(VENV)/bin/python perf/multi_crop.py

# It needs a few packages only, so that it runs where `make setup` was not; PYTHON= chooses the interpreter.
bench-gpu: ## benchmark speed, memory and numerics on a GPU, in under eight minutes
	PYTHONPATH=src $(or $(wildcard $(VENV)/bin/python),$(PYTHON)) perf/bench_gpu.py

bench-open-store: setup ## benchmark opening a store of 625,000 pairs and reading an epoch: time and memory
	$(VENV)/bin/python perf/open_store.py

wheel: setup ## build the package, with its configs, in dist/
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist .

docs: setup ## this documentation as a site of plain files, in site/
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(VENV)/bin/mkdocs build --quiet
