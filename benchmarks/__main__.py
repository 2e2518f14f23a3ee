"""Run a module of the benchmarks by its name: python benchmarks core.start --quick."""

import runpy
import sys

del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
