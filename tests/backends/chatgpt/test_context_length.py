"""How services word that a chat is too long, as their users report it, and what of it fits."""

from __future__ import annotations

import pytest

from backends.chatgpt.context_length import fitting_share, is_too_long

# (words, the share of the prompt that fits): OpenAI, Azure and DeepSeek, vLLM, SGLang, llama-server
# and its Python server, TGI, LM Studio, OpenRouter, xAI, Anthropic, Google, Mistral, Groq and
# Cerebras, Moonshot, DashScope, Zhipu, MiniMax, Bedrock, Copilot, Cohere, TensorRT-LLM, TabbyAPI,
# Ollama, LiteLLM, Fireworks, FastChat.
WORDS = [
    (
        "This model's maximum context length is 4097 tokens. However, your messages "
        "resulted in 4301 tokens. Please reduce the length of the messages.",
        4097 / 4301,
    ),
    (
        "This model's maximum context length is 4096 tokens. However, you requested 4118 "
        "tokens (3118 in the messages, 1000 in the completion). Please reduce the length "
        "of the messages or completion.",
        3096 / 3118,
    ),
    (
        "This model's maximum context length is 8191 tokens, however you requested 10346 "
        "tokens (10346 in your prompt; 5 for the completion). Please reduce your prompt; "
        "or completion length.",
        (8191 - 5) / 10346,
    ),
    (
        "Your input exceeds the context window of this model. Please adjust your input "
        "and try again.",
        None,
    ),
    (
        "Input tokens exceed the configured limit of 272000 tokens. Your messages "
        "resulted in 300000 tokens. Please reduce the length of the messages.",
        272 / 300,
    ),
    (
        "This model's maximum context length is 262144 tokens. However, you requested "
        "128000 output tokens and your prompt contains at least 134145 input tokens, for "
        "a total of at least 262145 tokens. Please reduce the length of the input prompt "
        "or the number of requested output tokens. (parameter=input_tokens, value=134145)",
        134144 / 134145,
    ),
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 500. This model's maximum "
        "context length is 8192 tokens and your request has 8000 input tokens (500 > 8192"
        " - 8000).",
        7692 / 8000,
    ),
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 10000. This model's "
        "maximum context length is 8192 tokens and your request has 123 input tokens "
        "(10000 > 8192 - 123).",
        0,
    ),
    (
        "The decoder prompt (length 21535) is longer than the maximum model length of "
        "16384. Make sure that `max_model_len` is no smaller than the number of text "
        "tokens.",
        16384 / 21535,
    ),
    (
        "The prompt (total length 25938) is too long to fit into the model (context "
        "length 4096). Make sure that `max_model_len` is no smaller than the number of "
        "text tokens plus multimodal tokens.",
        4096 / 25938,
    ),
    (
        "Input prompt (35247 tokens) is too long and exceeds limit of 1000",
        1000 / 35247,
    ),
    (
        "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
        40960 / 61709,
    ),
    (
        "Requested token count exceeds the model's maximum context length of 131072 "
        "tokens. You requested a total of 135000 tokens: 125000 tokens from the input "
        "messages and 10000 tokens for the completion.",
        121072 / 125000,
    ),
    (
        "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens).",
        59862 / 160062,
    ),
    (
        "the request exceeds the available context size. try increasing the context size "
        "or enable context shift; n_prompt_tokens 14429, n_ctx 8192",
        8192 / 14429,
    ),
    (
        "request (14429 tokens) exceeds the available context size (8192 tokens), try "
        "increasing it",
        8192 / 14429,
    ),
    (
        "Requested tokens (2285) exceed context window of 2048",
        2048 / 2285,
    ),
    (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. "
        "Given: 3474 `inputs` tokens and 60 `max_new_tokens`",
        1988 / 3474,
    ),
    (
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 1100",
        1024 / 1100,
    ),
    (
        "Trying to keep the first 15857 tokens when context the overflows. However, the "
        "model is loaded with context length of only 7866 tokens, which is not enough. "
        "Try to load the model with a larger context length, or provide a shorter input",
        7866 / 15857,
    ),
    (
        "The number of tokens to keep from the initial prompt is greater than the context length.",
        None,
    ),
    (
        "Reached context length of 32000 tokens with model (arch: gpt-oss) that does not "
        "currently support mid-generation context overflow.",
        None,
    ),
    (
        "Context size has been exceeded.",
        None,
    ),
    (
        "This endpoint's maximum context length is 131072 tokens. However, you requested "
        "about 150000 tokens (140000 of text input, 10000 in the output). Please reduce "
        "the length of either one",
        121072 / 140000,
    ),
    (
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        131072 / 537812,
    ),
    (
        "prompt is too long: 213462 tokens > 200000 maximum",
        200000 / 213462,
    ),
    (
        "input length and `max_tokens` exceed context limit: 170636 + 34048 > 200000, "
        "decrease input length or `max_tokens` and try again",
        165952 / 170636,
    ),
    (
        "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
        1048575 / 1196265,
    ),
    (
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 "
        "maximum context length",
        32768 / 40000,
    ),
    (
        "Please reduce the length of the messages or completion.",
        None,
    ),
    (
        "Please reduce the length of the messages or completion. Current length is 69553 "
        "while limit is 65536",
        65536 / 69553,
    ),
    (
        "Input length 131393 exceeds the maximum allowed input length of 131040 tokens.",
        131040 / 131393,
    ),
    (
        "Input length (265330) exceeds model's maximum context length (262144).",
        262144 / 265330,
    ),
    (
        "Invalid request: Your request exceeded model token limit: 8192 (requested: 9000)",
        8192 / 9000,
    ),
    (
        "model max length exceeded, max length:8192, request length:9000",
        8192 / 9000,
    ),
    (
        "Range of input length should be [1, 30720]",
        None,
    ),
    (
        "Prompt exceeds max length",
        None,
    ),
    (
        "invalid params, context window exceeds limit (2013)",
        None,
    ),
    (
        "Input is too long for requested model.",
        None,
    ),
    (
        "prompt token count of 140000 exceeds the limit of 128000",
        128 / 140,
    ),
    (
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000.",
        4081 / 5000,
    ),
    (
        "Prompt too long: 5152 tokens exceeds max_seq_len 2048 (leave room for output tokens)",
        2048 / 5152,
    ),
    (
        "Prompt length (5000) exceeds maximum input length (4096)",
        4096 / 5000,
    ),
    (
        "Prompt length 5000 is greater than max_seq_len 4096",
        4096 / 5000,
    ),
    (
        "the input length exceeds the context length",
        None,
    ),
    (
        "litellm.ContextWindowExceededError: litellm.BadRequestError: This model's "
        "maximum context length is 131,072 tokens. However, your messages resulted in "
        "140,000 tokens.",
        131072 / 140000,
    ),
    (
        "The prompt is too long: 140000, model maximum context length: 131071",
        131071 / 140000,
    ),
    (
        "Prompt tokens (9471) + max-sampled tokens (512) exceeds max (9216)",
        8704 / 9471,
    ),
]

OTHERS = [
    "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested "
    "5000. Please try again in 8s.",
    "Too many tokens, please wait before trying again.",
    "Too many requests: the request queue is too long",
    "max_tokens is too large: 500000. This model supports at most 16384 completion tokens.",
    "Invalid value: 'top_k' must be <= 100",
    "image is too large",
    "The model is overloaded",
    "Daily token limit reached.",
    "You have reached your monthly limit of 100000 tokens",
    "Request queue too long: number of requests exceeds 100",
    "System role not supported",
]


def test_a_chat_that_is_too_long_is_recognised() -> None:
    """Whatever the status; the share is that of the prompt, without what the answer takes."""
    assert WORDS
    for words, share in WORDS:
        for status in (400, 422, 429, 500):
            assert is_too_long(status, "", words), (status, words)
        found = fitting_share(words)
        assert found == (None if share is None else pytest.approx(share)), words


def test_other_refusals_are_none() -> None:
    """A limit of all chats together passes; an option or a file is no length."""
    assert [words for words in OTHERS if is_too_long(400, "", words)] == []
    assert [words for words in OTHERS if is_too_long(429, "", words)] == []


@pytest.mark.parametrize(
    "code",
    [
        "context_length_exceeded",
        "exceed_context_size_error",
        "model_max_prompt_tokens_exceeded",
        "context_window_exceeded",
        "request_too_large",
    ],
)
def test_a_code_or_a_status_may_say_it(code: str) -> None:
    """Without a word."""
    assert is_too_long(400, code, "no")
    assert is_too_long(413, "", "no")
    assert not is_too_long(400, "", "no")


def test_a_request_over_the_rate_alone_is_shortened() -> None:
    """Waiting would not help."""
    words = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000."
    assert is_too_long(429, "tokens", words)
    assert fitting_share(words) == pytest.approx(0.75)


def test_a_key_or_a_model_is_not_a_length() -> None:
    """Even if the words could be about one."""
    assert not is_too_long(404, "", "The model gpt-4-context-window does not exist")
    assert fitting_share("gpt-4-32768: maximum context length is 8192 tokens, got 9000") == (
        pytest.approx(8192 / 9000)
    )
