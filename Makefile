# make demo        backtest the sample strategy on a simulated market, offline
# make dry-run     let Freqtrade trade a simulated market in real time, offline; Ctrl-C ends it
# make test        lint, types and all tests
# make recorded    the same as demo on recorded data: make recorded RECORDED=../shared
# make parity      compare what a bot saw with its backtest, to the bit; takes 8 minutes
# make faults      kill -9, broken networks, full disks, wrong clocks; takes an hour
# make audit       known vulnerabilities of what is installed
# make bench       speed, memory and size beside their goals and their peers; some minutes
# make bench-quick most of it with less data, in a minute
# make bench-load  20 bots under 10,000 liquidations a second, a store of 100,000,000; 45 minutes

PYTHON ?= python3
RECORDED ?= ../shared

BIN := .venv/bin
SIMULATED := user_data/simulated
SIMULATED_DB := sqlite:///$(SIMULATED)/liquidations.sqlite
PLOT := user_data/plot/freqtrade-plot-BTC_USDT_USDT-1h.html
SIMULATED_RANGE := 20240105-20240229
DRY := user_data/dry-run
RECORDED_DB := sqlite:///user_data/recorded/liquidations.sqlite
RECORDED_RANGE := 20240620-20240819

.PHONY: audit demo dry-run test recorded parity faults bench bench-quick bench-load clean

demo: $(BIN)/.plot
	$(BIN)/liquidations simulate
	$(BIN)/liquidations sandbox --datadir $(SIMULATED)/data --db-url $(SIMULATED_DB) -- \
		freqtrade plot-dataframe --no-color --no-trades --datadir $(SIMULATED)/data -p BTC/USDT:USDT \
		--timerange 20240205-20240220
	sed 's|BTC.u002fUSDT:USDT|SIMULATED &|g' $(PLOT) > $(SIMULATED)/chart.html && rm $(PLOT)
	$(BIN)/liquidations sandbox --datadir $(SIMULATED)/data --db-url $(SIMULATED_DB) -- \
		freqtrade backtesting --no-color --datadir $(SIMULATED)/data --timerange $(SIMULATED_RANGE)
	@echo
	@echo "SIMULATED: 60 days of BTC, ETH and SOL were invented, candles and liquidations alike."
	@echo "These trades say nothing about real markets."
	@echo "Chart, to open in a browser: $(SIMULATED)/chart.html"

dry-run: $(BIN)/.plot
	$(BIN)/liquidations simulate --now
	@echo
	@echo "SIMULATED: a bot trades an invented market, with a planted crash or squeeze of each pair."
	@echo "Each minute it logs the new candle's columns; a trade should come within three minutes."
	@echo "Ctrl-C ends it."
	@echo
	FREQTRADE__TIMEFRAME=1m $(BIN)/liquidations sandbox --datadir $(DRY)/data \
		--db-url sqlite:///$(DRY)/liquidations.sqlite --play sqlite:///$(DRY)/exchange.sqlite -- \
		freqtrade trade --datadir $(DRY)/data --db-url sqlite://

recorded: $(BIN)/.plot
	@test -d $(RECORDED)/data/coinalyze || { \
		echo "There are no recordings in $(RECORDED)/data; name their folder: make recorded RECORDED=FOLDER"; exit 2; }
	mkdir -p user_data/recorded
	$(BIN)/liquidations import-data --db-url $(RECORDED_DB) --source coinalyze --unit base \
		--datadir $(RECORDED)/data/candles $(RECORDED)/data/coinalyze
	$(BIN)/liquidations import-data --db-url $(RECORDED_DB) --source okx \
		--markets $(RECORDED)/data/okx/instruments.json $(RECORDED)/data/okx
	$(BIN)/liquidations list-data --db-url $(RECORDED_DB)
	$(BIN)/liquidations sandbox --datadir $(RECORDED)/data/candles --db-url $(RECORDED_DB) -- \
		freqtrade backtesting --no-color --datadir $(RECORDED)/data/candles -i 1h \
		--timerange $(RECORDED_RANGE)

test: $(BIN)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

parity: $(BIN)/.test
	$(BIN)/python tests/parity.py --runs 7

faults: $(BIN)/.test
	@status=0; for part in kill network system; do \
		$(BIN)/python tests/faults/$$part.py || status=1; done; exit $$status

audit: $(BIN)/.test
	$(BIN)/python .ci/audit.py

bench: $(BIN)/.bench
	$(BIN)/python benchmarks/bench.py

bench-quick: $(BIN)/.bench
	$(BIN)/python benchmarks/bench.py --quick

bench-load: $(BIN)/.test
	@status=0; for part in load.py "load.py --db postgresql" growth.py "growth.py --db postgresql"; do \
		$(BIN)/python benchmarks/$$part || status=1; done; exit $$status

clean:
	rm -rf .venv build dist

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; name one: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv

$(BIN)/.plot: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[plot]'
	@touch $@

$(BIN)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(BIN)/.plot

$(BIN)/.bench: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,test]'
	@touch $@ $(BIN)/.test $(BIN)/.plot
