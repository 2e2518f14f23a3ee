"""Run `python -m llama_cpp.server`, with the processor's library loaded as ours loads it.

The server itself loads none in builds that have one for each kind of processor.
"""

import runpy
import sys

from harness.contestants import ROOT

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from backends.llamacpp import bindings

    bindings.prepare()
    runpy.run_module("llama_cpp.server", run_name="__main__", alter_sys=True)
