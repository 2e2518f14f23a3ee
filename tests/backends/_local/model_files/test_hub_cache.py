"""Names of the hub: what the cache has of them is found without network, or how to fetch it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends._local.model_files import hub_cache
from kuwa_min.errors import UsageError
from tests.support.models.weight_files import safetensors

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "fedcba98"
VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
FILES = ("config.json", "model-Q4_K_M.gguf", "model-Q8_0.gguf", "part/model.safetensors")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the hub's cache an empty folder."""
    place = tmp_path / "hub"
    place.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    return place


def keep(cache: Path, folder: str, *, commit: str = COMMIT, reference: str = "main") -> Path:
    """Put a model into the cache as the library does, with links to blobs."""
    model = cache / folder
    snapshot = model / "snapshots" / commit
    (model / "blobs").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FILES):
        blob = model / "blobs" / str(number)
        blob.write_bytes(safetensors())
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    if reference:
        (model / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
        (model / "refs" / reference).write_text(commit, encoding="ascii")
    return snapshot


def refusal(*words: str) -> str:
    """Return the one line that a name, or a name and a file, ends in."""
    find = hub_cache.hub_folder if len(words) == 1 else hub_cache.hub_file
    with pytest.raises(UsageError) as refused:
        find(*words)
    sentence = str(refused.value)
    assert sentence.isprintable()
    return sentence


@pytest.mark.parametrize(
    "text", ["owner/name", "o/n", "Owner-1/na_me.2-3B", "owner/name@main", "owner/name@refs/pr/1"]
)
def test_names_of_the_hub_are_known_by_their_form(text: str) -> None:
    """Owner/name, and a revision if one is wanted."""
    assert hub_cache.is_hub_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "gpt2",
        "owner/",
        "/name",
        "a/b/c",
        "./owner/name",
        "~/name",
        "../name",
        "owner/..",
        "owner--x/name",
        "owner/na..me",
        "owner/na me",
        "owner/-name",
        "owner/name.",
        "owner/name@",
        "owner/name@../x",
        "owner/name@/x",
        "owner/name@x/",
        "owner/名",
        "a/b\n",
        "owner/name\0",
        f"owner/{'x' * 97}",
        "C:\\models/name",
    ],
)
def test_other_texts_are_no_names_of_the_hub(text: str) -> None:
    """Paths above all, and what would lead out of the cache."""
    assert not hub_cache.is_hub_name(text)


def test_a_cached_model_is_found(cache: Path) -> None:
    """By owner and name, or by the name alone that some early models have."""
    snapshot, early = keep(cache, "models--owner--name"), keep(cache, "models--gpt2")
    assert hub_cache.hub_folder("owner/name") == snapshot
    assert hub_cache.hub_folder("gpt2") == early
    assert hub_cache.is_cached("gpt2")
    assert not hub_cache.is_cached("gpt3")


def test_a_revision_is_a_reference_or_a_commit(cache: Path) -> None:
    """The one that is asked for, not the one that is there."""
    keep(cache, "models--owner--name")
    other = keep(cache, "models--owner--name", commit=OTHER, reference="refs/pr/1")
    assert hub_cache.hub_folder("owner/name@refs/pr/1") == other
    assert hub_cache.hub_folder(f"owner/name@{OTHER}") == other
    assert hub_cache.hub_folder("owner/name@main").name == COMMIT
    assert hub_cache.hub_folder("owner/name").name == COMMIT
    found = refusal("owner/name@v2")
    assert f"but not as v2; there is owner/name@{COMMIT}, owner/name@{OTHER}" in found
    assert "`hf download owner/name --revision v2 --local-dir ./name`" in found


def test_the_only_revision_needs_no_reference(cache: Path) -> None:
    """As it is after copying the snapshots alone; of two, none is guessed."""
    snapshot = keep(cache, "models--o--n", reference="")
    assert hub_cache.hub_folder("o/n") == snapshot
    keep(cache, "models--o--n", commit=OTHER, reference="")
    assert "but not as main" in refusal("o/n")


@pytest.mark.parametrize("content", [b"", b"../../..", b"\xff" * 40, b"/etc", b"x" * 5000])
def test_a_reference_leads_nowhere_else(cache: Path, content: bytes) -> None:
    """Whatever is written in it."""
    keep(cache, "models--o--n")
    keep(cache, "models--o--n", commit=OTHER, reference="")
    (cache / "models--o--n" / "refs" / "main").write_bytes(content)
    assert "but not as main" in refusal("o/n")


def test_what_is_not_cached_says_how_to_fetch_it(cache: Path) -> None:
    """On which machine, by which command, and what to do with it; and names near it."""
    keep(cache, "models--Qwen--Qwen3-8B")
    keep(cache, "datasets--Qwen--Qwen3-8")
    assert refusal("qwen/Qwen3-8") == (
        f"--model_path qwen/Qwen3-8 is neither a folder nor in the hub's cache ({cache}); "
        "near it: Qwen/Qwen3-8B; on a connected machine, "
        "`hf download qwen/Qwen3-8 --local-dir ./Qwen3-8` fetches it: copy ./Qwen3-8 to this "
        "machine and give --model_path ./Qwen3-8"
    )
    assert "near it" not in refusal("other/thing")


def test_a_cache_that_is_not_there_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is on a machine that was never connected."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    assert f"nor in the hub's cache ({tmp_path / 'none'}); on a" in refusal("owner/name")


def test_an_interrupted_download_is_named(cache: Path) -> None:
    """With the files that lead nowhere, or as one that was only begun."""
    snapshot = keep(cache, "models--o--n")
    for number in (0, 3):
        (cache / "models--o--n" / "blobs" / str(number)).unlink()
    found = refusal("o/n")
    assert "is incomplete in the hub's cache: what config.json, part/model.safetensors in" in found
    assert f"in {snapshot} link to is missing; on a connected machine, `hf download" in found
    (cache / "models--o--begun").mkdir()
    assert "models--o--begun), but not as main, only begun; on a" in refusal("o/begun")


def test_one_file_of_a_model_is_found(cache: Path) -> None:
    """In a folder of the model, too; and of a revision."""
    snapshot = keep(cache, "models--o--n")
    for name in FILES:
        assert hub_cache.hub_file("o/n", name) == snapshot / name
        assert hub_cache.hub_file(f"o/n@{COMMIT}", name) == snapshot / name


def test_a_file_that_is_not_cached_names_near_ones(cache: Path) -> None:
    """And the command that fetches it alone."""
    snapshot = keep(cache, "models--o--n")
    found = refusal("o/n", "model-q4_0.gguf")
    assert found.startswith(f"--model_path hf://o/n?model-q4_0.gguf is not in {snapshot}; near it:")
    assert "model-Q4_K_M.gguf" in found
    assert "`hf download o/n model-q4_0.gguf --local-dir ./n` fetches it: copy ./n to" in found
    assert found.endswith("give --model_path ./n/model-q4_0.gguf")
    assert "`hf download x/y a.gguf --local-dir ./y`" in refusal("x/y", "a.gguf")


def test_a_file_whose_content_is_missing_is_incomplete(cache: Path) -> None:
    """The others can be used."""
    snapshot = keep(cache, "models--o--n")
    (cache / "models--o--n" / "blobs" / "1").unlink()
    assert f"what {snapshot / FILES[1]} links to is missing" in refusal("o/n", FILES[1])
    assert hub_cache.hub_file("o/n", FILES[2]) == snapshot / FILES[2]


@pytest.mark.parametrize("file", ["../../blobs/1", "/etc/passwd", "", ".", "part", "part/../x"])
def test_a_file_stays_in_its_model(cache: Path, file: str) -> None:
    """Only what is listed there is given."""
    keep(cache, "models--o--n")
    assert f"--model_path hf://o/n?{file} is not in" in refusal("o/n", file)


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "o--n/x"])
def test_what_is_no_name_is_refused(cache: Path, name: str) -> None:
    """It would lead elsewhere."""
    keep(cache, "models--o--n")
    assert refusal(name) == refusal(name, "x")
    assert refusal(name).endswith("is no name on the hub: owner/name is needed")


def test_links_that_lead_back_are_no_files(cache: Path) -> None:
    """Nor is the search endless."""
    snapshot = keep(cache, "models--o--n")
    (snapshot / "loop").symlink_to(snapshot)
    assert hub_cache.hub_folder("o/n") == snapshot
    (snapshot / "self").symlink_to("self")
    assert "what self in" in refusal("o/n")


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({}, "{home}/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "~/hf"}, "{home}/hf/hub"),
        ({"HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HOME": "/hf", "HF_HUB_CACHE": "$HOME/new"}, "{home}/new"),
    ],
)
def test_the_cache_is_where_the_library_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], place: str
) -> None:
    """By the same variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**settings, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert hub_cache.cache_folder() == Path(place.format(home=tmp_path))


@pytest.mark.slow
def test_the_library_finds_what_is_found_here(cache: Path) -> None:
    """Its own reader is the judge of the cache's form."""
    library = pytest.importorskip("huggingface_hub", reason="the hub's own library")
    keep(cache, "models--o--n")
    keep(cache, "models--o--n", commit=OTHER, reference="refs/pr/1")
    for revision in ("main", "refs/pr/1", OTHER):
        found = library.try_to_load_from_cache("o/n", FILES[3], cache, revision=revision)
        assert Path(found) == hub_cache.hub_file(f"o/n@{revision}", FILES[3])
