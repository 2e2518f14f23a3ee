"""Facts about models: what counts where the library's objects differ or say nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")

from backends.huggingface.loading import facts  # noqa: E402 - needs the library

pytestmark = pytest.mark.slow  # to import it


def model(**config: Any) -> Any:
    """Return a model with this configuration."""
    text = SimpleNamespace(**config)
    return SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))


@pytest.mark.parametrize(
    ("positions", "longest", "context"),
    [(2048, 1024, 1024), (2048, 4096, 2048), (None, 1024, 1024), (2048, 1e30, 2048)],
)
def test_the_shorter_context_length_counts(
    positions: int | None, longest: float, context: int
) -> None:
    """A tokenizer's 1e30 means unknown."""
    tokenizer = SimpleNamespace(model_max_length=longest)
    one = model(max_position_embeddings=positions)
    assert facts.context_length(one, tokenizer) == context


def test_an_unknown_context_length_is_the_default() -> None:
    """Neither the configuration nor the tokenizer states it."""
    tokenizer = SimpleNamespace(model_max_length=1e30)
    assert facts.context_length(model(), tokenizer) == facts.DEFAULT_CONTEXT


def test_the_eos_tokens_are_those_of_configurations_and_tokenizer() -> None:
    """Each once; values that are not token ids are left out."""
    one = model(eos_token_id=2)
    one.generation_config = SimpleNamespace(eos_token_id=[7, 2, True])
    tokenizer = SimpleNamespace(eos_token_id=None)
    assert facts.eos_token_ids(one, tokenizer) == [7, 2]


def test_layers_are_the_module_lists_of_num_hidden_layers_entries() -> None:
    """Not those of the experts within them."""
    experts = [torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(3)) for _ in range(2)]
    lists = torch.nn.ModuleList(experts)
    lists.config = model(num_hidden_layers=2).config
    assert facts.layers(lists) == experts


def test_special_tokens_are_texts_and_lists_of_texts() -> None:
    """As chat templates read them."""
    known = {"eos_token": "</s>", "additional_special_tokens": ["<a>"], "odd": 1}
    tokenizer = SimpleNamespace(special_tokens_map=known)
    assert facts.special_tokens(tokenizer) == {name: known[name] for name in list(known)[:2]}


def test_the_markup_has_every_special_token() -> None:
    """Also those that were added without a name."""
    added = {
        1: SimpleNamespace(special=False),
        2: type("Special", (), {"special": True, "__str__": lambda _: "<b>"})(),
    }
    tokenizer = SimpleNamespace(
        all_special_ids=[0], all_special_tokens=["<a>"], added_tokens_decoder=added
    )
    assert facts.markup(tokenizer) == {0: "<a>", 2: "<b>"}


def test_models_that_do_not_expose_embeddings_have_the_default() -> None:
    """Remote code may raise."""
    embedding = torch.nn.Embedding(5, 1)
    assert facts.embeddings(SimpleNamespace(get_input_embeddings=lambda: embedding), 9) == 5
    assert facts.embeddings(SimpleNamespace(), 9) == 9


def test_the_cache_argument_is_that_of_forward() -> None:
    """Remote code has the older name."""
    assert facts.cache_argument(SimpleNamespace(forward=lambda cache: cache)) == "cache"
    older = SimpleNamespace(forward=lambda past_key_values: past_key_values)
    assert facts.cache_argument(older) == "past_key_values"
