# make help lists the targets. Set-up is part of each: a machine needs only Python >= 3.11 and make.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python -m babyvlm
SIZE   ?= default
DATA   := data/playroom
WORLD  := $(DATA)/world
STORES := $(DATA)/stores
EMBED  := $(DATA)/embeddings
TRIALS := '[$(WORLD)/trials/labeled_s.csv,$(WORLD)/trials/vtwt.csv,$(WORLD)/trials/baby_winoground.csv,$(WORLD)/trials/caption.csv]'
LARGE  := data/playroom-large
FIT    := $(RUN) fit --config configs/playroom/base.yaml
SCORE  := --config configs/benchmarks/playroom.yaml
HELD   := $(DATA)/held-out
BUILD  := $(RUN) benchmark build
MIXES  := filtered filtered-aug filtered-random aug-only

.DEFAULT_GOAL := help
.PHONY: help setup demo data curate-large mixes benchmark-demo playroom-clip playroom-dino probe report test soak check bench-matching bench-padding bench-features bench-loader bench-open-store

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(VENV)/.ready ## make .venv with all that is needed (about 2 minutes and 6 GB)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "babyvlm needs Python >= 3.11; set PYTHON="'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

data: setup ## the embedded world and its stores: raw video to matched pairs (whole stages are left as they are)
	$(RUN) playroom --out $(WORLD) --size $(SIZE)
	$(RUN) curate frames --videos $(WORLD)/home/videos --transcripts $(WORLD)/home/transcripts --out $(STORES)/raw/frames \
	    --image_size 96 --max_frames 2 --licensed false
	$(RUN) curate decontaminate --store $(STORES)/raw/frames --trials $(TRIALS) --out $(STORES)/frames
	$(RUN) curate embed --store $(STORES)/frames --out $(EMBED)/frames
	$(RUN) curate filter --store $(STORES)/frames --embeddings $(EMBED)/frames --out $(STORES)/filtered
	$(RUN) curate web --sources '[$(WORLD)/web/tars,$(WORLD)/web/llava/list.json,$(WORLD)/web/parquet]' --out $(STORES)/raw/web
	$(RUN) curate decontaminate --store $(STORES)/raw/web --trials $(TRIALS) --out $(STORES)/web
	$(RUN) curate rewrite --store $(STORES)/web --out $(STORES)/rewritten
	$(RUN) curate embed --store $(STORES)/rewritten --out $(EMBED)/rewritten
	$(RUN) curate match --targets $(STORES)/filtered --target_embeddings $(EMBED)/frames \
	    --candidates $(STORES)/rewritten --candidate_embeddings $(EMBED)/rewritten --out $(STORES)/aug
	$(RUN) curate sample-random --candidates $(STORES)/web --like $(STORES)/aug --out $(STORES)/random
	$(RUN) curate vocabulary --stores '[$(STORES)/filtered,$(STORES)/aug,$(STORES)/random]' --out $(DATA)/vocabulary

curate-large: setup ## the same five times as large, checked, with the funnel of the whole chain
	$(MAKE) data SIZE=large DATA=$(LARGE)
	$(RUN) store check --store $(LARGE)/stores/filtered
	$(RUN) store check --store $(LARGE)/stores/aug
	$(RUN) curate funnel --stores '[$(LARGE)/stores/filtered,$(LARGE)/stores/aug,$(LARGE)/stores/random]' --out $(LARGE)/funnel
	$(RUN) curate contamination --stores '[$(LARGE)/stores/filtered,$(LARGE)/stores/aug]' --out $(LARGE)/contamination \
	    --trials $(subst $(WORLD),$(LARGE)/world,$(TRIALS))

demo: data ## raw video to a benchmark table on the embedded world (at most 10 minutes on two cores)
	$(RUN) test --config configs/eval/playroom-clip.yaml $(SCORE)
	$(FIT) --config configs/playroom/cvcl.yaml --config configs/mix/filtered.yaml $(SCORE)
	$(FIT) --config configs/playroom/cvcl.yaml --config configs/mix/filtered-aug.yaml $(SCORE)
	$(RUN) report lightning_logs

mixes: data ## CVCL on each of the four mixes, and the table
	for mix in $(MIXES); do $(FIT) --config configs/playroom/cvcl.yaml --config configs/mix/$$mix.yaml $(SCORE) || exit 1; done
	$(RUN) report lightning_logs

.PHONY: ablations ablations-quick ablations-status demo-babyllava docs
JOBS  ?= 2
ABLATE := $(RUN) ablations

ablations: data ## every row of the paper's tables, three seeds each; called again it goes on where it was
	$(ABLATE) run --jobs $(JOBS)

ablations-quick: data ## the same with one seed and less training, in lightning_logs/quick
	$(ABLATE) run --quick true --jobs $(JOBS)

ablations-status: setup ## what of the matrix is done, running, failed or missing
	$(ABLATE) status

demo-babyllava: data ## both baselines, CVCL and BabyLLaVA, on the filtered pairs, and the table
	$(ABLATE) run --quick true --jobs $(JOBS) --rows '[CVCL-filtered,BabyLLaVA-GPT2-filtered,Playroom-CLIP]'
	$(RUN) report lightning_logs/quick

benchmark-demo: data ## the tests' own making on held-out recordings: proposed, reviewed (by a script), drawn, tried on CLIP
	$(RUN) playroom --out $(HELD)/world --size $(SIZE) --seed 1
	$(RUN) curate frames --videos $(HELD)/world/home/videos --transcripts $(HELD)/world/home/transcripts \
	    --out $(HELD)/frames --image_size 112 --max_frames 2 --licensed false
	$(RUN) curate embed --store $(HELD)/frames --out $(HELD)/embeddings
	$(RUN) curate filter --store $(HELD)/frames --embeddings $(HELD)/embeddings --out $(HELD)/filtered
	$(BUILD) labeled-s --images $(HELD)/world/trials/labeled_s --out $(HELD)/labeled-s --exclude '[]' --licensed false
	$(BUILD) phrase-pairs --store $(HELD)/filtered --split all --vocabulary $(DATA)/vocabulary --per_frame 2 --limit 200 \
	    --out $(HELD)/pairs
	$(VENV)/bin/python perf/scripted_review.py $(HELD)/pairs
	$(BUILD) negatives --pairs $(HELD)/pairs --out $(HELD)/negatives
	$(BUILD) assemble --labeled_s $(HELD)/labeled-s --pairs $(HELD)/pairs --negatives $(HELD)/negatives --out $(HELD)/benchmark
	for store in filtered aug random; do $(RUN) curate decontaminate --store $(STORES)/$$store --images '[$(HELD)/benchmark]' \
	    --out $(HELD)/stores/$$store || exit 1; done
	$(RUN) test --config configs/eval/playroom-clip.yaml --config $(HELD)/benchmark/eval.yaml

playroom-clip: setup ## train the CLIP that is shipped in src/babyvlm/playroom/clip
	$(RUN) playroom --out $(WORLD) --size $(SIZE)
	$(RUN) curate web --sources '[$(WORLD)/clean]' --hold_out true --out $(STORES)/clean
	$(RUN) curate vocabulary --stores '[$(STORES)/clean]' --out $(DATA)/clip-vocabulary
	$(FIT) --config configs/playroom/clip.yaml --config configs/mix/clean.yaml
	cp lightning_logs/CLIP-clean/$$(ls -v lightning_logs/CLIP-clean | tail -1)/open_clip/* src/babyvlm/playroom/clip/

playroom-dino: data ## train the DINO backbone that is shipped in src/babyvlm/playroom/dino
	$(FIT) --config configs/playroom/dino.yaml --config configs/mix/frames.yaml
	cp lightning_logs/DINO-frames/$$(ls -v lightning_logs/DINO-frames | tail -1)/backbone.* src/babyvlm/playroom/dino/

probe: data ## what the shipped DINO backbone knows of the labelled frames, beside random trunks
	$(VENV)/bin/python perf/probe.py --trials $(WORLD)/trials/labeled_s.csv

report: setup ## tables, figures, findings and one page of all runs in lightning_logs (another folder: LOGS=)
	$(RUN) report $(or $(LOGS),lightning_logs) --out $(or $(OUT),report)

test: setup ## the tests (at most 10 minutes on two cores)
	$(VENV)/bin/pytest -n 2 --dist loadfile

soak: setup ## the long tests
	$(VENV)/bin/pytest -m soak --timeout 3600

check: setup ## what CI checks besides the tests: lint, format, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench-matching: setup ## exact matching against scipy: time and memory ratios
	$(VENV)/bin/python perf/matching.py --size small

bench-padding: data ## what padding costs the language model, and what batching by length or packing saves
	$(VENV)/bin/python perf/padding.py --store $(STORES)/filtered
	$(VENV)/bin/python perf/padding.py --store $(STORES)/filtered --image-tokens 49

bench-features: setup ## epochs with frozen features kept and without, CVCL and BabyLLaVA at paper size
	$(VENV)/bin/python perf/features.py

bench-loader: setup ## JPEG bytes to augmented batches: CVCL's way, ours, and decoding alone
	$(VENV)/bin/python perf/loader.py

bench-open-store: setup ## opening 625,000 pairs and reading an epoch: seconds and memory of a loader's process
	$(VENV)/bin/python perf/open_store.py

docs: setup ## this documentation as a site of plain files, in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet
