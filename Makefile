# On a fresh machine with python3, pip and make, `make demo` and `make test` install what they need.
# uv is used where it is installed.
VENV := .venv
PYTHON := $(VENV)/bin/python
RUN := runs/mnist

.PHONY: setup demo test lint clean clean-runs

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --allow-existing $(VENV) && \
		uv pip install -q --python $(PYTHON) -c constraints.txt -e '.[dev,perceptual]'; \
	else \
		python3 -m venv $(VENV) && \
		$(PYTHON) -m pip install -q -c constraints.txt -e '.[dev,perceptual]'; \
	fi
	@touch $@
	@echo "installed into $(VENV); activate it with: source $(VENV)/bin/activate"
	@echo "or write $(PYTHON) in place of python, for example: $(PYTHON) sample.py samplers"

demo: setup
	$(PYTHON) train.py tokenizer --config configs/mnist.yaml output_dir=$(RUN)
	$(PYTHON) train.py prior --config configs/mnist.yaml output_dir=$(RUN)
	$(PYTHON) sample.py grid --model $(RUN) --label 0 1 2 3 4 5 6 7 8 9 --n 100 --out $(RUN)/grid.png
	$(PYTHON) sample.py inpaint --model $(RUN) --image docs/images/digit.png --mask docs/images/digit-mask.png \
		--n 4 --label 3 --out $(RUN)/inpaint.png
	$(PYTHON) evaluate.py --model $(RUN) --reference mnist5k --no-download --out $(RUN)/report.json
	@echo "samples: $(RUN)/grid.png   inpainting: $(RUN)/inpaint.png"
	@echo "losses: $(RUN)/curves.png   scores: $(RUN)/report.json"
	@echo "next, for example: $(PYTHON) sample.py grid --model $(RUN) --label 3 --out threes.png"

test: setup
	$(PYTHON) -m pytest -q

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache

# Deletes every trained model in runs/, after a question. Without a terminal: make clean-runs CONFIRM=yes
clean-runs:
	@if [ "$(CONFIRM)" = yes ]; then answer=yes; \
	elif [ -t 0 ]; then printf 'Delete runs/ and every model in it? [yes/no] '; read -r answer; \
	else echo 'error: no terminal to ask on: run make clean-runs CONFIRM=yes' >&2; exit 2; fi; \
	if [ "$$answer" = yes ]; then rm -rf runs; else echo 'kept runs/'; fi
