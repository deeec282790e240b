# Every target is a step of .ci/run, which is the one place that says what it does; plain `make` runs them all.

steps := $(shell bash .ci/run --list | cut -d' ' -f1)

.PHONY: all $(steps)

all:
	bash .ci/run

$(steps):
	bash .ci/run $@
