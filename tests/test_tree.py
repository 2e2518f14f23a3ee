"""The tree: small folders, and a test for each module, found by its path."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.programs import ROOT

ENTRIES = 20  # of a folder, at most
# The modules without a test file of their own, and the file that tests them; from tests/.
COVERED_BY = {
    "kuwa_min/bundle/provision": "e2e/test_unpacking",
    "kuwa_min/chat/thinking/formats": "kuwa_min/chat/thinking/test_splitter",
    "kuwa_min/httpd/acceptor": "e2e/test_health",
    "kuwa_min/httpd/connection": "kuwa_min/httpd/test_server",
    "kuwa_min/httpd/flush_thread": "kuwa_min/httpd/test_body_writer",
    "kuwa_min/httpd/limits": "kuwa_min/httpd/test_hostile",
    "kuwa_min/httpd/listener": "e2e/test_health",
    "kuwa_min/httpd/messages": "kuwa_min/httpd/test_server",
    "kuwa_min/kernel/records": "kuwa_min/kernel/test_embedded",
    "kuwa_min/kernel/relay": "kuwa_min/kernel/test_embedded",
    "kuwa_min/options/config_file": "kuwa_min/options/test_generation_options",
    "kuwa_min/options/yaml/flow": "kuwa_min/options/yaml/test_block",
    "kuwa_min/options/yaml/scalar": "kuwa_min/options/yaml/test_block",
    "kuwa_min/packing/compile_core": "kuwa_min/packing/test_core_zip",
    "kuwa_min/packing/compile_modules": "kuwa_min/packing/test_bytecode",
    "kuwa_min/packing/elf/scan": "kuwa_min/packing/elf/test_host_requirements",
    "kuwa_min/packing/import_modules": "kuwa_min/packing/test_bytecode",
    "kuwa_min/packing/kit/texts": "kuwa_min/packing/kit/test_folder",
    "kuwa_min/packing/wheels/wheelhouse": "kuwa_min/packing/wheels/test_resolve",
    "kuwa_min/chat/request_extras": "kuwa_min/serving/openai_api/test_request",
    "kuwa_min/serving/openai_api/errors": "kuwa_min/serving/test_api_routes",
    "kuwa_min/serving/openai_api/fields": "kuwa_min/serving/openai_api/test_request",
    "kuwa_min/serving/openai_api/logprobs": "kuwa_min/serving/test_api_routes",
    "kuwa_min/serving/openai_api/messages": "kuwa_min/serving/openai_api/test_request",
    "kuwa_min/serving/openai_api/response_format": "kuwa_min/serving/openai_api/test_request",
    "kuwa_min/serving/openai_api/tools": "kuwa_min/serving/openai_api/test_request",
    "kuwa_min/serving/openai_api/response": "kuwa_min/serving/test_api_routes",
    "kuwa_min/serving/openai_api/stream": "kuwa_min/serving/test_api_routes",
    "kuwa_min/serving/openai_api/whole": "kuwa_min/serving/test_api_routes",
    "kuwa_min/serving/backend_status": "kuwa_min/serving/test_status",
    "kuwa_min/serving/generations/factory": "kuwa_min/serving/test_routes",
    "kuwa_min/serving/generations/piece_writer": "kuwa_min/serving/generations/test_generation",
    "kuwa_min/serving/service": "kuwa_min/test_executor",
    "kuwa_min/serving/tls": "kuwa_min/test_cli",
    "backends/_cloud/api_key": "backends/chatgpt/test_chatgpt",
    "backends/_cloud/executor": "backends/chatgpt/test_chatgpt",
    "backends/_http/lookup": "backends/_http/test_pool",
    "backends/_local/answers/splitters": "backends/_local/prompts/test_encoder",
    "backends/_local/completion": "backends/_local/test_sequence",
    "backends/_local/constraints/child": "backends/_local/constraints/test_matcher_process",
    "backends/_local/constraints/constrainer": "backends/_local/constraints/test_matcher_process",
    "backends/_local/constraints/matcher": "backends/_local/constraints/test_answer",
    "backends/_local/executor": "backends/huggingface/test_huggingface",
    "backends/_local/machine/cgroups": "backends/_local/machine/test_processors",
    "backends/_local/prompt_cache/metrics": "backends/_local/prompt_cache/test_cache",
    "backends/_local/prompt_cache/state_file": "backends/_local/prompt_cache/test_state_files",
    "backends/_local/prompt_cache/parked_states": "backends/_local/prompt_cache/test_cache",
    "backends/_local/prompt_cache/parked": "backends/_local/prompt_cache/test_cache",
    "backends/_local/model": "backends/huggingface/test_huggingface",
    "backends/_local/options": "backends/test_kuwa_options",
    "backends/_local/model_files/folder_contents": "backends/_local/model_files/test_resolve",
    "backends/_local/model_files/foreign_files": "backends/_local/model_files/test_resolve",
    "backends/_local/model_files/gguf_header": "backends/_local/model_files/test_gguf",
    "backends/_local/model_files/safetensors": "backends/_local/model_files/test_weights",
    "backends/_local/model_files/template_files": "backends/huggingface/test_loading",
    "backends/_local/model_files/sniff": "backends/_local/model_files/test_resolve",
    "backends/_local/prompts/pictures": "backends/huggingface/test_vision_chats",
    "backends/_local/scheduler": "backends/huggingface/test_scheduler",
    "backends/_local/templates/jinja_env": "backends/_local/templates/test_chat_template",
    "backends/_local/templates/sandbox": "backends/_local/templates/test_sandbox_pool",
    "backends/_local/templates/sandbox_child": "backends/_local/templates/test_sandbox_pool",
    "backends/chatgpt/client": "backends/chatgpt/test_chatgpt",
    "backends/chatgpt/options": "backends/test_kuwa_options",
    "backends/chatgpt/transport": "backends/chatgpt/test_chatgpt",
    "backends/debug": "e2e/test_life",
    "backends/dummy": "kuwa_min/test_cli",
    "backends/geminipro/client": "backends/geminipro/test_geminipro",
    "backends/geminipro/completion": "backends/geminipro/test_geminipro",
    "backends/geminipro/response": "backends/geminipro/test_geminipro",
    "backends/huggingface/batching/attention_mask": "backends/huggingface/test_scheduler",
    "backends/huggingface/arguments": "backends/test_kuwa_options",
    "backends/llamacpp/arguments": "backends/test_kuwa_options",
    "backends/huggingface/batching_check": "backends/huggingface/test_scheduler",
    "backends/huggingface/scheduler_factory": "backends/huggingface/test_scheduler",
    "backends/huggingface/generate": "backends/huggingface/test_huggingface",
    "backends/huggingface/batching/forward_passes": "backends/huggingface/test_scheduler",
    "backends/huggingface/batching/host_states": "backends/huggingface/test_prompt_cache",
    "backends/huggingface/batching/kv_cache": "backends/huggingface/test_scheduler",
    "backends/huggingface/batching/kv_slots": "backends/huggingface/test_scheduler",
    "backends/huggingface/batching/slot_layer": "backends/huggingface/test_scheduler",
    "backends/huggingface/paged/paged_layer": "backends/huggingface/paged/test_paged_cache",
    "backends/huggingface/loading/failures": "backends/huggingface/test_loading",
    "backends/huggingface/loading/folder": "backends/huggingface/test_loading",
    "backends/huggingface/loading/load_options": "backends/huggingface/test_loading",
    "backends/huggingface/loading/model_kind": "backends/huggingface/test_loading",
    "backends/huggingface/loading/placement": "backends/huggingface/test_loading",
    "backends/huggingface/model": "backends/huggingface/test_huggingface",
    "backends/huggingface/options": "backends/test_kuwa_options",
    "backends/huggingface/decoding/candidates": "backends/huggingface/test_scheduler",
    "backends/huggingface/decoding/sampler": "backends/huggingface/test_scheduler",
    "backends/huggingface/decoding/cuda_graphs": "backends/huggingface/decoding/test_fixed_step",
    "backends/_local/tokenizing/bounds": "backends/_local/tokenizing/test_piece_tokenizer",
    "kuwa_min/packing/libraries/request": "kuwa_min/packing/libraries/test_find",
    "kuwa_min/packing/llama_cpp/build_tools": "kuwa_min/packing/llama_cpp/test_llama_wheel",
    "kuwa_min/packing/llama_cpp/compiling": "kuwa_min/packing/llama_cpp/test_llama_wheel",
    "kuwa_min/kernel/terminal/answer": "kuwa_min/kernel/terminal/test_session",
    "backends/llamacpp/vision/chat_media": "backends/llamacpp/vision/test_spans",
    "backends/llamacpp/vision/encoder": "backends/llamacpp/vision/test_vision",
    "backends/llamacpp/vision/layout": "backends/llamacpp/vision/test_spans",
    "backends/llamacpp/vision/loading": "backends/llamacpp/vision/test_vision",
    "backends/llamacpp/vision/media": "backends/llamacpp/vision/test_spans",
    "backends/llamacpp/vision/media_batch": "backends/llamacpp/vision/test_vision",
    "backends/llamacpp/vision/picture_encoder": "backends/llamacpp/vision/test_vision",
    "backends/llamacpp/vision/steps": "backends/llamacpp/vision/test_vision",
    "backends/llamacpp/vision/projector": "backends/llamacpp/vision/test_vision",
    "backends/llamacpp/batching/context_params": "backends/llamacpp/batching/test_context",
    "backends/llamacpp/batching/slot_memory": "backends/llamacpp/batching/test_context",
    "backends/llamacpp/batching/token_batch": "backends/llamacpp/batching/test_context",
    "backends/llamacpp/loading/adapter_files": "backends/llamacpp/test_lora",
    "backends/llamacpp/batching/prefix_reuse": "backends/llamacpp/test_scheduler",
    "backends/llamacpp/scheduler_factory": "backends/llamacpp/test_scheduler",
    "backends/llamacpp/loading/placed_model": "backends/llamacpp/test_llamacpp",
    "backends/llamacpp/model": "backends/llamacpp/test_llamacpp",
    "backends/llamacpp/options": "backends/test_kuwa_options",
}


def modules() -> list[str]:
    """Return the modules by their paths, without .py; sentences are tested by test_catalog."""
    found = [path for top in ("kuwa_min", "backends") for path in (ROOT / top).rglob("*.py")]
    named = [path for path in found if not path.name.startswith(("__", "sentences."))]
    paths = [path.relative_to(ROOT).with_suffix("").as_posix() for path in sorted(named)]
    return [path for path in paths if not path.startswith("kuwa_min/drop_in/")]  # test_drop_in


def has_own_test(module: str) -> bool:
    """Tell whether a module's test file is where its path says."""
    folder, _, name = module.rpartition("/")
    return (ROOT / "tests" / folder / f"test_{name}.py").exists()


def test_every_module_has_a_test_file() -> None:
    """Of its name in the folder of its name, or else one that the table names."""
    found = modules()
    assert found
    assert [one for one in found if not has_own_test(one) and one not in COVERED_BY] == []
    assert [one for one in found if has_own_test(one) and one in COVERED_BY] == []


def test_the_table_names_modules_and_tests_that_exist() -> None:
    """A module that is gone leaves the table."""
    assert set(COVERED_BY) <= set(modules())
    assert not [test for test in COVERED_BY.values() if not (ROOT / f"tests/{test}.py").exists()]


def test_no_folder_is_crowded() -> None:
    """Twenty entries can be seen at one look."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    entries: dict[str, set[str]] = {}
    for path in listed.stdout.splitlines():
        parts = path.split("/")
        for depth, entry in enumerate(parts):
            entries.setdefault("/".join(parts[:depth]), set()).add(entry)
    crowded = {folder: len(found) for folder, found in entries.items() if len(found) > ENTRIES}
    assert crowded == {}
