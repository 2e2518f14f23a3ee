"""Run llama.cpp's own server, which the wheel xllamacpp carries, until the process is ended.

Flash attention, prompt cache and continuous batching are as that server has them by default.
"""

import argparse
import signal

import xllamacpp


def main() -> None:
    """Listen on a port of the loopback interface."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    for name in ("port", "slots", "context", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--cache_type", choices=("f16", "f32"), default="f16")
    parser.add_argument("--flash_attn", choices=("auto", "off"), default="auto")
    parser.add_argument("--chat_template", default="")
    options = parser.parse_args()
    server = xllamacpp.Server(_params(options))
    print(server.listening_address, flush=True)
    signal.pause()


def _params(options: argparse.Namespace) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path, params.port = options.model, options.port
    params.n_parallel, params.n_ctx = options.slots, options.slots * options.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_gpu_layers, params.endpoint_metrics = 0, True
    cache_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type.upper()}")
    params.cache_type_k = params.cache_type_v = cache_type
    if options.flash_attn == "off":
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if options.chat_template:
        params.use_jinja, params.chat_template = True, options.chat_template
    return params


if __name__ == "__main__":
    main()
