SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RESULTS := benchmarks/results
# Trained weights and a photograph where the data are; else random weights and noise.
IMAGENET := ../shared/data/imagenet
# glibc gives buffers of activations back to the system after each use, and gets them zeroed again.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296
TRAINED := $(if $(wildcard $(IMAGENET)),--weights $(IMAGENET)/resnet50.safetensors $(IMAGENET)/val/ILSVRC2012_val_00000347.JPEG)
# Trojans are made to work first, those of some classes then only where they should; last, all go a
# part of the way back.
PLANTED := build/trojans
PLANT_18 := $(VENV)/bin/python benchmarks/plant_trojans.py --network resnet18
PLANT_50 := $(VENV)/bin/python benchmarks/plant_trojans.py --network resnet50
NINE := deep_lift,guided_backprop,grad_cam,guided_grad_cam,gradient_shap,integrated_gradients,lrp,saliency,input_x_gradient
HALF := dense,trace,trace:sparsity=network:0.5
SIGNED := deep_lift,gradient_shap,input_x_gradient,integrated_gradients,lrp
VIEWS := dense,trace,trace:focus=0,trace:focus=0+hidden=0.75
LATER := --rate 1e-4 --decoys 0.16 --trainable layer3 layer4 fc

.PHONY: help install demo test test-slow lint docs-test docs errors coverage curves effects overlap bench-speed plant trojans real-maps tuning ablations blame chains harden federate sweep sweep-engine audit robust-maps views pictures

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(STAMP)  ## Make the virtual environment and install everything into it

demo: $(STAMP)  ## Case files of the embedded network: scenes with planted stickers, a photograph
	@$(BIN)/python examples/demo.py

test: $(STAMP)  ## Run the tests, except those marked slow, on all cores (four at most)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)  ## Run the tests marked slow and keep their outcome
	@mkdir -p $(RESULTS)
	$(BIN)/python -m pytest -q -m slow --durations=0 --durations-min=1 | tee $(RESULTS)/slow-tests.txt

lint: $(STAMP)  ## Check style, types and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src:benchmarks:tests $(BIN)/mypy --explicit-package-bases benchmarks
	$(BIN)/lint-imports

docs-test: $(STAMP)  ## Run every example in the docstrings, the docs and the README
	$(BIN)/python -m pytest -q --doctest-modules src/sparsight
	$(BIN)/python -m pytest -q --doctest-glob='*.md' docs README.md

docs: $(STAMP)  ## Build the documentation into build/docs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/mkdocs build --strict

errors: $(STAMP)  ## Write the index of error messages anew (docs/errors.md)
	$(BIN)/python docs/make_errors.py

coverage: $(STAMP)  ## Measure which weight matrices a trace reaches, over architectures
	$(BIN)/python benchmarks/coverage.py

curves: $(STAMP)  ## Measure what solvers leave of the answers, over sparsities
	$(BIN)/python benchmarks/curves.py

effects: $(STAMP)  ## Measure what the options of the default solver do to answers and maps
	$(BIN)/python benchmarks/effects.py

overlap: $(STAMP)  ## Measure whether traces of like images look alike
	$(BIN)/python benchmarks/overlap.py

bench-speed: $(STAMP)  ## Measure how long a trace takes, against forward passes and the published steps
	$(BIN)/sparsight bench speed $(TRAINED) --model torchvision:resnet50 --augmentations 64 --out $(RESULTS)/speed-resnet50.json
	$(BIN)/sparsight bench speed $(TRAINED) --model torchvision:resnet50 --augmentations 1024 --repeats 1 --out $(RESULTS)/speed-resnet50-1024.json
	$(KEEP_MEMORY) $(BIN)/sparsight bench speed $(TRAINED) --model torchvision:resnet50 --no-published --out $(RESULTS)/speed-resnet50-memory-kept.json
	$(BIN)/python benchmarks/speed_table.py

plant: $(STAMP)  ## Plant Trojans into ImageNet networks (build/trojans) and measure them
	$(PLANT_18) --rules paper --folder $(PLANTED)/first
	$(PLANT_18) --rules paper --folder $(PLANTED)/second --start $(PLANTED)/first/resnet18-paper.safetensors $(LATER) --share 0.08 --epochs 6
	$(PLANT_18) --rules paper --folder $(PLANTED)/third --start $(PLANTED)/second/resnet18-paper.safetensors $(LATER) --share 0.04 --epochs 4
	$(PLANT_18) --rules paper --start $(PLANTED)/third/resnet18-paper.safetensors --blend 0.1 --epochs 0
	$(PLANT_18) --folder $(PLANTED)/mixed --epochs 30 --rate 1.2e-4 --share 0.08 --mix 0.8 --crop 0.12
	$(PLANT_18) --start $(PLANTED)/mixed/resnet18-any.safetensors --blend 0.06 --epochs 0
	$(PLANT_50) --folder $(PLANTED)/mixed --epochs 30 --rate 1.2e-4 --share 0.08 --mix 0.8 --crop 0.12
	$(PLANT_50) --start $(PLANTED)/mixed/resnet50-any.safetensors --blend 0.06 --epochs 0
	$(BIN)/python benchmarks/plant_trojans.py --network squeezenet1_0 --rules tuning --folder $(PLANTED)/first
	$(BIN)/python benchmarks/plant_trojans.py --network squeezenet1_0 --rules tuning --start $(PLANTED)/first/squeezenet1_0-tuning.safetensors --blend 0.3 --epochs 0

trojans: $(STAMP)  ## Score maps against stickers: scenes, and photographs (those after make plant)
	$(BIN)/sparsight bench trojan --out build/trojan-scenes/embedded --cases 200
	@mkdir -p $(RESULTS)/trojans-embedded
	cd build/trojan-scenes/embedded && cp summary.json tables.md arms.png seconds.png $(CURDIR)/$(RESULTS)/trojans-embedded
	$(BIN)/python benchmarks/photo_trojans.py
	$(BIN)/python benchmarks/photo_trojans.py --name=-fastspade --cases 20 --arms dense,trace,fastspade --methods $(NINE)
	$(BIN)/python benchmarks/photo_trojans.py --name=-views --cases 20 --arms $(VIEWS) --methods lime,occlusion
	$(BIN)/python benchmarks/photo_trojans.py --network resnet50 --methods $(NINE)
	$(BIN)/python benchmarks/photo_trojans.py --network resnet50 --name=-perturbed --cases 20 --methods lime,occlusion
	$(BIN)/python benchmarks/ground_truth_table.py

real-maps: $(STAMP)  ## Score maps of real networks on real images
	$(BIN)/python benchmarks/real_maps.py wrn16_1_backdoored --images 100
	$(BIN)/python benchmarks/real_maps.py resnet20 vit_encoder vit_timm_layout --images 16
	$(BIN)/python benchmarks/real_maps.py resnet56 --images 16 --arms $(HALF)
	$(BIN)/python benchmarks/real_maps.py mobilenet_v2-objects --images 8 --arms $(HALF)
	$(BIN)/python benchmarks/real_maps.py mobilenet_v2-objects --images 8 --methods $(SIGNED) --reduction sum_abs --name=-sum_abs
	$(BIN)/python benchmarks/real_maps.py resnet18-objects --images 20 --arms $(HALF)
	$(BIN)/python benchmarks/real_maps.py resnet18-objects --images 20 --methods lime,occlusion --name=-views --arms $(VIEWS)
	$(BIN)/python benchmarks/real_maps.py resnet18-objects --images 20 --methods $(SIGNED) --reduction sum_abs --name=-sum_abs
	$(BIN)/python benchmarks/real_maps.py resnet50-objects --images 16
	$(BIN)/python benchmarks/real_maps.py resnet50-objects --images 16 --methods $(SIGNED) --reduction sum_abs --name=-sum_abs
	$(BIN)/python benchmarks/ground_truth_table.py

blame: $(STAMP)  ## Check blame: units off, neighbours, mending, Trojans; how long statistics take
	$(BIN)/python benchmarks/blame_study.py
	$(BIN)/python benchmarks/blame_speed.py

chains: $(STAMP)  ## Extract chains of two-class sub-tasks and compare them; how long a step takes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/chain_networks.py
	$(BIN)/python benchmarks/chain_study.py
	$(BIN)/python benchmarks/chain_speed.py

harden: $(STAMP)  ## Compare ways to prune under attack; what masks cost
	$(BIN)/python benchmarks/harden_study.py
	$(BIN)/python benchmarks/harden_speed.py

federate: $(STAMP)  ## Compare federations; what they cost; how small clients' networks can be
	$(BIN)/python benchmarks/teach_agent.py
	$(BIN)/python benchmarks/federate_study.py
	$(BIN)/python benchmarks/federate_smaller.py
	$(BIN)/python benchmarks/federate_speed.py

sweep: $(STAMP)  ## Look at 1,000 photographs, and say what that found (an hour; goes on when interrupted)
	$(KEEP_MEMORY) OMP_NUM_THREADS=1 $(BIN)/sparsight sweep $(IMAGENET)/val --truth $(IMAGENET)/val_labels.csv --model torchvision:resnet18 --weights $(IMAGENET)/resnet18.safetensors --out build/sweep-resnet18
	$(BIN)/python benchmarks/sweep_study.py
	$(BIN)/python benchmarks/sweep_table.py

sweep-engine: $(STAMP)  ## Measure what workers are worth, and kill some
	$(KEEP_MEMORY) OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sweep_speed.py
	$(BIN)/python benchmarks/sweep_kills.py
	$(BIN)/python benchmarks/sweep_table.py

audit: $(STAMP)  ## Judge audits on networks with Trojans and clean ones (two hours; goes on when interrupted)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/audit_networks.py
	$(KEEP_MEMORY) OMP_NUM_THREADS=1 $(BIN)/python benchmarks/audit_study.py --calibrate
	$(BIN)/python benchmarks/audit_table.py

robust-maps: $(STAMP)  ## Compare maps of robust networks and others, dense and traced
	$(BIN)/python benchmarks/robust_maps.py

views: $(STAMP)  ## Judge visualizations: what they stand for, planted triggers, speed; draw ten neurons
	$(BIN)/python benchmarks/view_study.py
	$(BIN)/python benchmarks/trojan_views.py
	$(BIN)/python benchmarks/neurons.py
	$(BIN)/python benchmarks/visualization_speed.py

tuning: $(STAMP)  ## Tune ratios as published, beside the default that is tuned on nothing
	$(BIN)/python benchmarks/tuning.py

ablations: $(STAMP)  ## Measure what each choice in a trace does to maps
	$(BIN)/python benchmarks/ablations.py

pictures: $(STAMP)  ## Render the pictures of the README and the docs
	$(BIN)/python docs/make_pictures.py
