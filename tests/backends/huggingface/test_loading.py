"""Load model folders of every kind with the real library: files, names of the hub, own code."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface import HuggingfaceExecutor
from kuwa_min import LLMExecutor
from kuwa_min.errors import KuwaError, StartError, UsageError
from tests.support import local_chats
from tests.support.loopback_hub import COMMIT, Hub
from tests.support.models import tiny_models
from tests.support.models.tiny_architectures import Library, write_folder
from tests.support.programs import Program, fetch, reserved_port, said, until
from tests.support.saved_as import SAVED_AS

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
transformers = pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
FEW = ("--max_new_tokens", 24)
LAYERS_AND_HEADS = ("layers", "attention_heads", "ffn_dim")
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
OWN_CODE = """
from pathlib import Path
from transformers import Qwen2ForCausalLM

class Own(Qwen2ForCausalLM):
    def eval(self):
        gate = Path(self.config.gate)
        if gate.exists():
            gate.read_text()
        return super().eval()
"""

TYING_CODE = """
from transformers import Qwen2ForCausalLM

class Own(Qwen2ForCausalLM):
    _tied_weights_keys = None

    def tie_weights(self, *args, **options):
        self.lm_head.weight = self.model.embed_tokens.weight
"""

Copy = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model."""
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", "qwen2")


@pytest.fixture(scope="module")
def expected(folder: Path) -> str:
    """Return what the library answers to Hello with the whole folder."""
    return Library(folder).answer("Hello", max_new_tokens=24)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Copy:
    """Give what copies the folder without some files, and changes its configuration."""

    def make(path: Path | None = None, *, without: str = "", **changes: Any) -> Path:
        place = path or tmp_path / "copy"
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns(without))
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        (place / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
        return place

    return make


@pytest.fixture
def pickled(copy: Copy) -> Path:
    """Make a copy with its weights as torch saves them."""
    from safetensors.torch import load_file

    place = copy()
    torch.save(load_file(place / SAFETENSORS), place / PICKLE)
    (place / SAFETENSORS).unlink()
    return place


@pytest.fixture
def answer(load: Any) -> Callable[..., str]:
    """Give what loads a model with options and asks it the same as the library was asked."""

    def ask(*options: object) -> str:
        executor = load(HuggingfaceExecutor, "--model_path", *options, *FEW).executor
        return local_chats.ask(executor, "Hello")[0]

    return ask


def refusal(load: Any, kind: type[KuwaError], *options: object) -> str:
    """Return the one line that a start ends with."""
    with pytest.raises(kind) as refused:
        load(HuggingfaceExecutor, "--model_path", *options)
    sentence = str(refused.value)
    assert sentence.isprintable()
    return sentence


# -- weights


def test_weights_of_torch_are_read(answer: Any, pickled: Path, expected: str) -> None:
    """As they were saved: in a .bin file."""
    assert answer(pickled) == expected


def test_weights_of_torch_can_be_refused(load: Any, pickled: Path) -> None:
    """By an option, before they are opened."""
    assert "which --safetensors_only refuses" in refusal(
        load, UsageError, pickled, "--safetensors_only"
    )


class Bomb:
    """What creates a file when it is read from a pickle."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._target,)


@pytest.mark.parametrize("of_today", [True, False])
def test_a_pickle_that_runs_code_is_refused(
    load: Any, pickled: Path, tmp_path: Path, of_today: bool
) -> None:
    """In one line, and it does not run; torch's careless reader would run it."""
    target, weights = tmp_path / "it ran", pickled / PICKLE
    content = {**torch.load(weights), "bomb": Bomb(target)}
    torch.save(content, weights, _use_new_zipfile_serialization=of_today)
    found = refusal(load, StartError, pickled)
    assert found.startswith(f"{pickled} cannot be loaded: ")
    assert "could run" in found
    assert "weights_only" not in found, "the advice would run it"
    assert not target.exists()
    torch.load(weights, weights_only=False)
    assert target.exists(), "the bomb is none"


def test_weights_in_several_files_are_read(
    answer: Any, copy: Copy, folder: Path, expected: str
) -> None:
    """Safetensors and torch's alike."""
    place = copy(without=SAFETENSORS)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(place, max_shard_size="100KB")
    shards = sorted(place.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert answer(place) == expected
    _pickle_shards(place, shards)
    assert answer(place) == expected


def _pickle_shards(place: Path, shards: list[Path]) -> None:
    from safetensors.torch import load_file

    index = place / f"{SAFETENSORS}.index.json"
    text = index.read_text(encoding="utf-8")
    for shard in shards:
        pickle = shard.name.replace(".safetensors", ".bin").replace("model", "pytorch_model")
        torch.save(load_file(shard), place / pickle)
        text = text.replace(shard.name, pickle)
        shard.unlink()
    (place / f"{PICKLE}.index.json").write_text(text, encoding="utf-8")
    index.unlink()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!doctype html>", f"cannot be loaded: {SAFETENSORS} is a web page of 15 bytes, not"),
        (None, "is truncated: "),
    ],
)
def test_broken_weights_are_one_line(
    load: Any, copy: Copy, content: bytes | None, words: str
) -> None:
    """It names the folder and what is wrong with the file."""
    weights = copy() / SAFETENSORS
    weights.write_bytes(weights.read_bytes()[:-1] if content is None else content)
    found = refusal(load, UsageError, weights.parent)
    assert found.startswith(f"--model_path {weights.parent} cannot be loaded: {SAFETENSORS}")
    assert words in found


@pytest.mark.parametrize(("dtype", "found"), [("auto", "float64"), ("bfloat16", "bfloat16")])
def test_the_number_format_is_the_models_own(
    load: Any, folder: Path, dtype: str, found: str
) -> None:
    """Unless another one is asked for; /status shows it with the other facts."""
    executor = load(HuggingfaceExecutor, "--model_path", folder, "--dtype", dtype).executor
    facts = {"model": "Qwen2ForCausalLM", "dtype": found, "device": "cpu", "context": 2048}
    assert facts.items() <= executor.model.info().items()


def test_a_library_for_eight_bits_is_asked_for(
    load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, before anything is loaded."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    found = refusal(load, StartError, folder, "--load_8bits")
    assert found.startswith("--load_8bits needs bitsandbytes, not installed here: ")


def test_progress_reaches_its_end(
    answer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weight by weight, in a task that names the model; then the model is checked."""
    steps: dict[str, list[tuple[int, int]]] = {}

    def begin(_: LLMExecutor, what: str) -> Callable[[int, int], None]:
        return lambda done, total: steps.setdefault(what, []).append((done, total))

    monkeypatch.setattr(LLMExecutor, "progress", begin)
    assert answer(folder)
    loading = f"loading {folder}"
    assert list(steps) == [loading, "checking the model"]
    counted = steps[loading]
    total = counted[-1][1]
    assert [done for done, of in counted if of == total] == list(range(total + 1))
    assert total > 10


def test_a_model_that_does_not_fit_is_one_line(
    load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ran out of memory."""

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    found = refusal(load, StartError, folder)
    assert found == f"{folder} does not fit into memory; a smaller --dtype may"


# -- models that write no text

SMALL = {
    "vocab_size": 260,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
WHISPER = {
    "vocab_size": 260,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "decoder_start_token_id"), 1),
}
OTHERS = (
    ("BertModel", SMALL, "is no model that answers chats: bert turns text into numbers"),
    ("BertForMaskedLM", SMALL, "is no model that answers chats: bert turns text into numbers"),
    ("WhisperForConditionalGeneration", WHISPER, "is no model that answers chats: whisper turns"),
    ("Qwen2ForSequenceClassification", SMALL, "cannot be loaded: its weights lack 1 tensor of"),
    ("Qwen2Model", SMALL, "cannot be loaded: its weights lack 1 tensor of the model (lm_head.we"),
)


@pytest.mark.parametrize(("name", "settings", "words"), OTHERS)
def test_a_model_for_another_task_is_refused(
    load: Any, tmp_path: Path, name: str, settings: dict[str, Any], words: str
) -> None:
    """The library would load some of them, with random numbers for what they lack."""
    kind = getattr(transformers, name)
    kind(kind.config_class(**settings)).save_pretrained(tmp_path / "m")
    tiny_models.make_tokenizer().save_pretrained(tmp_path / "m")
    found = refusal(load, StartError, tmp_path / "m")
    assert found.startswith(f"{tmp_path / 'm'} {words}")


def test_weights_that_lack_tensors_are_refused(load: Any, copy: Copy) -> None:
    """They would be random numbers, and the answers with them."""
    from safetensors.torch import load_file, save_file

    place = copy()
    tensors = load_file(place / SAFETENSORS)
    gone = sorted(name for name in tensors if "q_proj" in name)
    kept = {name: tensor for name, tensor in tensors.items() if name not in gone}
    save_file(kept, place / SAFETENSORS, metadata={"format": "pt"})
    found = refusal(load, StartError, place)
    assert f"its weights lack {len(gone)} tensors of the model ({gone[0]}" in found


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("pegasus", ["model.decoder.embed_positions.weight", "model.encoder.embed_positions"]),
        ("mvp", ["final_logits_bias"]),
    ],
)
def test_weights_may_lack_what_the_library_computes(
    load: Any, tmp_path: Path, kind: str, gone: list[str], caplog: Any
) -> None:
    """Pegasus' positions are never saved, and a buffer begins as zeros: nothing is random."""
    from safetensors.torch import load_file, save_file

    place, tokenizer = tmp_path / "m", tiny_models.make_tokenizer()
    sides = ("encoder", "decoder")
    shape: dict[str, Any] = {f"{side}_{part}": 2 for side in sides for part in LAYERS_AND_HEADS}
    shape |= {"d_model": 16, "vocab_size": len(tokenizer), "decoder_start_token_id": 1}
    config = transformers.AutoConfig.for_model(kind, max_position_embeddings=256, **shape)
    transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    tensors = load_file(place / SAFETENSORS)
    kept = {name: one for name, one in tensors.items() if not name.startswith(tuple(gone))}
    assert len(kept) == len(tensors) - len(gone)
    save_file(kept, place / SAFETENSORS, metadata={"format": "pt"})
    load(HuggingfaceExecutor, "--model_path", place)
    assert f"{place}: its weights lack {gone[0]}" in caplog.text


def test_code_that_ties_weights_itself_needs_them_once(
    load: Any, copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The library, which does not know, counts the second name as missing."""
    from safetensors.torch import load_file, save_file

    modules = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(modules, str(tmp_path / "modules"))
    place = copy(auto_map={"AutoModelForCausalLM": "own.Own"}, tie_word_embeddings=True)
    (place / "own.py").write_text(TYING_CODE, encoding="utf-8")
    tensors = load_file(place / SAFETENSORS)
    del tensors["lm_head.weight"]
    save_file(tensors, place / SAFETENSORS, metadata={"format": "pt"})
    executor = load(HuggingfaceExecutor, "--model_path", place, "--trust_remote_code").executor
    model = executor.model.library_model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lack" not in caplog.text


# -- tokenizer


@pytest.mark.parametrize("form", [str, lambda text: {"default": text}])
def test_a_processors_template_is_used(load: Any, copy: Copy, form: Any) -> None:
    """chat_template.json, which the library's tokenizers leave where it lies."""
    place = copy(without="chat_template*")
    content = json.dumps({"chat_template": form("{{ messages[-1].content }}")})
    (place / "chat_template.json").write_text(content, encoding="utf-8-sig")
    executor = load(HuggingfaceExecutor, "--model_path", place).executor
    assert local_chats.tokens(executor, "a") == [3 + ord("a")]


def test_a_missing_template_names_what_may_be_it(
    load: Any, copy: Copy, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that the library does not look at, or takes for other purposes."""
    place = copy(without="chat_template*")
    (place / "template.jinja").write_text("{{ 1 }}", encoding="utf-8")
    load(HuggingfaceExecutor, "--model_path", place)
    assert (
        f"{place} has no chat template (--override_chat_template may name one: "
        f"{place}/template.jinja); a plain one is used" in caplog.messages
    )


def test_a_tokenizer_may_lie_elsewhere(load: Any, copy: Copy, tmp_path: Path) -> None:
    """With the chat template beside it; the model's folder then needs none."""
    tokenizer = tmp_path / "tokenizer"
    tiny_models.make_tokenizer("{{ messages[-1].content }}").save_pretrained(tokenizer)
    for place in (copy(tmp_path / "with"), copy(tmp_path / "without", without="*token*")):
        options = ("--model_path", place, "--tokenizer", tokenizer)
        executor = load(HuggingfaceExecutor, *options).executor
        assert local_chats.tokens(executor, "a") == [3 + ord("a")]


@pytest.mark.parametrize("option", ["--tokenizer", "--processor"])
def test_a_folder_that_is_not_there_names_its_option(
    load: Any, folder: Path, tmp_path: Path, option: str
) -> None:
    """A name of the hub that is not cached says how to fetch it."""
    found = refusal(load, UsageError, folder, option, tmp_path / "no")
    assert found.startswith(f"{option} {tmp_path / 'no'} does not exist")
    found = refusal(load, UsageError, folder, option, "owner/no-such-name")
    assert "`hf download owner/no-such-name --local-dir ./no-such-name` fetches it" in found
    assert found.startswith(f"{option} owner/no-such-name is neither")
    assert "--model_path" not in found, "the option is another one"


# -- files saved on Windows


@pytest.mark.parametrize("saved_as", ["utf-8-bom", "utf-16-le-bom", "utf-16-le"])
def test_a_folder_saved_on_windows_is_loaded(
    load: Any, copy: Copy, expected: str, saved_as: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All of its texts; not even generation_config.json is ignored."""
    place = copy()
    (place / "generation_config.json").write_text('{"eos_token_id": [2, 77]}', encoding="utf-8")
    for name in ("*.json", "*.jinja"):
        for file in place.glob(name):
            file.write_bytes(SAVED_AS[saved_as](file.read_text(encoding="utf-8")))
    talker = load(HuggingfaceExecutor, "--model_path", place, *FEW)
    assert 77 in talker.executor.model.eos_token_ids
    assert "".join(talker.pieces("Hello")) == expected
    assert "config.json" in caplog.text


# -- names of the hub


def test_a_name_in_the_hubs_cache_is_loaded(
    answer: Any, folder: Path, tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network, from links into blobs as the hub's library leaves them."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--owner--name"
    snapshot = kept / "snapshots" / COMMIT
    for place in (kept / "refs", kept / "blobs", snapshot):
        place.mkdir(parents=True)
    (kept / "refs" / "main").write_text(COMMIT, encoding="ascii")
    for number, file in enumerate(folder.iterdir()):
        shutil.copy(file, kept / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert answer("owner/name") == expected


def test_a_name_that_is_not_cached_ends_the_start(tmp_path: Path) -> None:
    """With code 2 and one line, which says what fetches it."""
    with Program(
        "huggingface", "--model_path", "owner/name", HF_HUB_CACHE=str(tmp_path)
    ) as program:
        assert program.end() == 2
    (line,) = program.lines
    assert "--model_path owner/name is neither a folder nor in the hub's cache" in line
    assert "on a connected machine, `hf download owner/name --local-dir ./name` fetches it" in line


def test_a_name_is_fetched_if_one_is_online(folder: Path, tmp_path: Path, expected: str) -> None:
    """From the hub that the environment names."""
    options = ("--model_path", "owner/name", *map(str, FEW), "--ignore_kernel")
    with (
        Hub("owner/name", folder) as hub,
        Program("huggingface", "--online", *options, **hub.environment(tmp_path, "1")) as program,
    ):
        assert fetch(program.url, said("Hello"))[1] == expected
    assert f"/owner/name/resolve/{COMMIT}/{SAFETENSORS}" in hub.asked


def test_a_revision_is_not_fetched(load: Any) -> None:
    """The line says which command does it."""
    found = refusal(load, UsageError, "owner/name@v2", "--online")
    assert found.startswith("owner/name@v2: --online fetches no revision")
    assert "`hf download owner/name --revision v2 --local-dir ./name` fetches it" in found


@pytest.mark.parametrize("options", [(), ("--online",)])
def test_the_network_is_not_used_unless_online(
    copy: Copy, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Not even for code that a config finds on the hub, whatever the environment says."""
    is_offline = str(int(bool(options)))
    place = copy(auto_map={"AutoModelForCausalLM": "owner/code--own.Own"})
    given = ("--model_path", str(place), "--trust_remote_code", *options)
    with (
        Hub("owner/code", tmp_path / "nothing") as hub,
        Program("huggingface", *given, **hub.environment(tmp_path, is_offline)) as program,
    ):
        assert program.end() == 1
    sentence = f"{place} needs Python code of owner/code"
    assert program.lines[-1].partition("error: ")[2].startswith(sentence)
    assert bool(hub.asked) == bool(options)


# -- code of the model


def test_a_models_own_code_runs_only_if_it_is_trusted(
    answer: Any, load: Any, copy: Copy, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --trust_remote_code a kind that the library knows is the library's."""
    place = copy(auto_map={"AutoModelForCausalLM": "own.Own"})
    (place / "own.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    assert answer(place) == expected
    with pytest.raises(SystemExit, match="it ran"):
        load(HuggingfaceExecutor, "--model_path", place, "--trust_remote_code")


def test_a_kind_that_the_library_does_not_know_is_one_line(load: Any, copy: Copy) -> None:
    """Which names the kind, and no command that helps nothing in a built file."""
    place = copy(model_type="of-tomorrow")
    found = refusal(load, StartError, place)
    assert found.startswith(f"{place} is a model of the type of-tomorrow, which transformers ")
    assert found.endswith("a GGUF of it may run with `llamacpp`")


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("own", (), "needs Python code of its own (own.py), which may do anything with your rig"),
        ("a/b--own", (), "needs Python code of its own (own.py), which may do anything with your"),
        ("a/b--own", ("--trust_remote_code",), "needs Python code of a/b, which is not in its fo"),
    ],
)
def test_code_that_is_needed_says_which_and_how(
    load: Any, copy: Copy, module: str, options: tuple[str, ...], words: str
) -> None:
    """The library's own advice comes after its first three hundred characters."""
    code = {"AutoConfig": f"{module}.OwnConfig", "AutoModelForCausalLM": f"{module}.Own"}
    place = copy(model_type="own-kind", auto_map=code)
    (place / "own.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    found = refusal(load, StartError, place, *options)
    assert found.startswith(f"{place} {words}")
    assert found.endswith("config.json" if options else "start with --trust_remote_code")


def test_packages_that_code_needs_are_named_with_the_build_that_has_them(
    load: Any, copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's advice, pip install, does not help a built file."""
    modules = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(modules, str(tmp_path / "modules"))
    place = copy(auto_map={"AutoModelForCausalLM": "own.Own"})
    (place / "own.py").write_text("import no_such\nimport nor_this\n", encoding="utf-8")
    found = refusal(load, StartError, place, "--trust_remote_code")
    options = {"--with no_such --with nor_this", "--with nor_this --with no_such"}
    assert any(f"`python build.py huggingface {one}`" in found for one in options)


def test_loading_is_seen_from_outside(copy: Copy, tmp_path: Path) -> None:
    """At /status how far it is, at /health that it is not ready yet; then that it is."""
    gate = tmp_path / "gate"
    place = copy(auto_map={"AutoModelForCausalLM": "own.Own"}, gate=str(gate))
    (place / "own.py").write_text(OWN_CODE, encoding="utf-8")
    os.mkfifo(gate)  # the model's code waits there, with its weights in memory
    options = ("--model_path", str(place), "--trust_remote_code", "--ignore_kernel")
    own = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    with (
        reserved_port() as port,
        Program("huggingface", *options, "--port", str(port), **own) as program,
    ):
        base = f"http://127.0.0.1:{port}"
        waiting = until(lambda: _opened(gate))
        status = json.loads(fetch(f"{base}/status")[1])
        assert (status["state"], status["model"]) == ("loading", {})
        progress = status["progress"]
        assert progress["what"] == f"loading {place}"
        assert 10 < progress["done"] == progress["total"]
        assert (progress["percent"], progress["seconds_left"]) == (99, 0)
        assert fetch(f"{base}/health")[0] == 503
        gate.unlink()
        os.close(waiting)
        program.wait_for("ready: ")
        assert fetch(f"{base}/health")[0] == 204
        status = json.loads(fetch(f"{base}/status")[1])
        assert status["state"] == "ready"
        facts = {"model": "Own", "dtype": "float64", "device": "cpu", "context": 2048}
        assert facts.items() <= status["model"].items()


def _opened(gate: Path) -> int | None:
    """Return the pipe's end for writing once its reader has opened it."""
    try:
        return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


# -- graphics cards


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), ("cuda:1", "auto")),
        (("--device", "cuda:0"), ("cuda:0", "auto")),
        (("--device_map", "balanced"), ("balanced", "auto")),
        (("--dtype", "bf16"), ("cuda:1", "bfloat16")),
        (("--concurrent_req_limit", 10**9), ("auto", "auto")),
    ],
)
def test_a_model_goes_to_one_card_unless_told(
    options: Any, found: Any, load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.cuda is replaced, and what was chosen is looked at: there is no GPU here."""
    from backends.huggingface.device import cards
    from backends.huggingface.loading import folder as loading

    two = [cards.Card(index, "Card", (4 + index) * 10**9, (8, 0)) for index in range(2)]
    chosen = []
    choose = loading.choose_cards

    def look(*given: Any) -> Any:
        chosen.append(choose(*given))
        raise StartError("seen")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(two))
    monkeypatch.setattr(cards, "found", lambda: two)
    monkeypatch.setattr(cards.Card, "free", lambda card: card.index * card.total)
    monkeypatch.setattr(loading, "choose_cards", look)
    assert refusal(load, StartError, folder, *options) == "seen"
    assert chosen == [found]


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_segments_of_gpu_memory_can_grow_unless_told(
    name: str, load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's own value stays alone, by either name."""
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    load(HuggingfaceExecutor, "--model_path", folder)
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.setenv(name, "max_split_size_mb:64")
    load(HuggingfaceExecutor, "--model_path", folder)
    assert {one: os.environ[one] for one in os.environ if one.endswith("ALLOC_CONF")} == {
        name: "max_split_size_mb:64"
    }
