"""Untrusted templates in real processes: nothing gets out, and no limit is exceeded."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from backends._local.templates import sandbox, sandbox_pool
from backends._local.templates.chat_template import PLAIN, ChatTemplate, TemplateError
from backends._local.templates.sandbox import SandboxProcess
from backends._local.templates.sandbox_pool import SandboxPool
from tests.support.programs import ROOT, TIMEOUT, until

pytest.importorskip("jinja2", reason="templates are jinja2's")

pytestmark = pytest.mark.slow  # real processes, time limits
SHORT = 0.3  # seconds; enough for a template that ends
CHAT = [{"role": "user", "content": "Hello"}]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
# For templates that can get out of the sandbox: what they find outside.
HOLE = """
import os, socket, sys
def _print(text):
    sys.stdout.write(text)
    sys.stdout.flush()
HOLES = {"open": open, "os": os, "socket": socket.socket, "print": _print, "exit": os._exit}
"""
STRANGE = [  # orders and answers travel as JSON lines
    PLAIN,
    "{{ bos_token }}{{ messages | tojson }}{{ eos_token }}",
    "line\nline\r\n{{ '\\n' }}\u2028\u0000\x7f 世界 🎉 \\ \" {{ messages[0].content | length }}",
    "",
]
ONLY_TIME_ENDS = [
    ENDLESS,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "{{ lipsum(n=99999, html=false) | length }}",
    "{{ 99999 ** 9999999 > 0 }}",
    "{{ range(99999) | map('string') | map('center', 99999) | map('trim') | list | length }}",
]
TOO_MUCH_MEMORY = [
    "{{ 'a' * 300000000 }}",
    "{{ 'a' | center(10 ** 9) }}",
    "{{ '%0999999999d' % 1 }}",
    "{{ ([1] * 10 ** 9) | length }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = 2 * ns.x %}{% endfor %}",
]
TRICKS = [  # each would leave a file or show what Python keeps inside
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch FILE') }}",
    "{{ lipsum.__globals__['os'].system('touch FILE') }}",
    "{{ self.__init__.__globals__.__builtins__.open('FILE', 'w') }}",
    "{{ namespace.__init__.__globals__['__builtins__']['__import__']('os').mknod('FILE') }}",
    "{{ raise_exception.__globals__.__builtins__.open('FILE', 'w') }}",
    "{{ dict.__class__.__base__.__subclasses__() }}",
    "{{ (messages | attr('__class__') | attr('__base__')).__subclasses__() }}",
    "{{ ('' | attr('for' ~ 'mat'))('{0.__class__.__base__}') }}",
    "{{ '{0.__class__.__base__}'.format(1) }}{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ ['{0.__class__.__base__}'] | map('format', 1) | join }}",
    "{{ messages | map(attribute='__class__.__base__') | list }}",
    "{{ (1,) | groupby('__class__') }}{{ [[]] | sum(attribute='__class__', start='') }}",
    "{% set ns = namespace() %}{% set ns.__class__ = dict %}{{ ns.__init__.__globals__ }}",
    "{{ joiner.__call__.__func__.__code__.co_consts }}{{ (1).__class__.mro() }}",
    "{% import 'os' as os %}{{ os.mknod('FILE') }}",
    "{% include '/etc/passwd' %}{% extends '/etc/passwd' %}",
    "{{ open('FILE', 'w') }}{{ os.mknod('FILE') }}{{ __import__('os') }}{{ __builtins__ }}",
    "{% macro f() %}{% endmacro %}{{ f.__globals__ }}{{ f._func.__globals__ }}",
    "{{ strftime_now.__globals__ }}{{ ('x' | tojson).__class__ }}{{ loop.__class__ }}",
]
INSIDES = ("<class", "<module", "built-in", "__builtins__", "root:", "0x")


@pytest.fixture
def processes() -> Iterator[SandboxPool]:
    """Give a pool with the limits of production, but for time: a busy machine may need it."""
    with SandboxPool(timeout=60) as made:
        yield made


@pytest.fixture
def hurried() -> Iterator[SandboxPool]:
    """Give processes with a short time."""
    with SandboxPool(timeout=SHORT) as made:
        yield made


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let templates reach Python itself, as through a hole in the sandbox."""
    (name, language), *others = sandbox.SOURCES
    ours = "made.globals.update(\n"
    assert ours in language
    language = language.replace(ours, f"{ours}        **HOLES,\n")
    monkeypatch.setattr(sandbox, "SOURCES", ((name, language + HOLE), *others))


def refusal(processes: SandboxPool, source: str) -> str:
    """Return why a template is refused."""
    with pytest.raises(TemplateError) as refused:
        processes.open(source).render(CHAT)
    return str(refused.value)


def is_gone(process: int) -> bool:
    """Tell whether not even a zombie is left of a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def computes(process: int) -> bool:
    """Tell whether a process is running, not waiting."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "R"


# -- what templates are for


@pytest.mark.parametrize("source", STRANGE)
def test_the_text_is_a_chat_templates(processes: SandboxPool, source: str) -> None:
    """The same code writes it, and nothing is lost on the way."""
    names = {"bos_token": "<s>", "eos_token": '"\n\\世🎉'}
    chat = [*CHAT, {"role": "assistant", "content": '\r\n"\\\u2028世界🎉\x00'}]
    bounded, here = processes.open(source, **names), ChatTemplate(source, **names)
    assert bounded.render(chat) == here.render(chat)
    assert bounded.render(CHAT, bos_token="<bos>") == here.render(CHAT, bos_token="<bos>")


def test_the_clock_is_ours(processes: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time zone that was set for us holds for templates."""
    monkeypatch.setenv("TZ", "XYZ-12")
    there = timezone(timedelta(hours=12))
    hours = [f"{datetime.now(there):%d日%H}"]
    text = processes.open("{{ strftime_now('%d日%H') }}").render(CHAT)
    assert text in [*hours, f"{datetime.now(there):%d日%H}"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('System role not supported\n...') }}", "System role not supported"),
        ("a\n{% if %}", "line 2: Expected an expression, got 'end of statement block'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ '\\ud800' }}", "it wrote half a character"),
        ("{{ 'a' * 2000001 }}", "it wrote more than 2,000,000 characters"),
        (" " * 65537, "it is longer than 65,536 characters"),
    ],
)
def test_a_refusal_is_one_line(processes: SandboxPool, source: str, reason: str) -> None:
    """What the operator reads."""
    assert refusal(processes, source) == reason


def test_what_is_just_allowed_is_written(processes: SandboxPool) -> None:
    """In characters, whatever each takes on the way."""
    assert processes.open("{{ '🎉' * 2000000 }}").render(CHAT) == "🎉" * 2000000
    assert processes.open("a" * 65536).render(CHAT) == "a" * 65536


@pytest.mark.usefixtures("broken")
def test_a_refused_chat_leaves_the_process_for_the_next(processes: SandboxPool) -> None:
    """A start for each would be slow: many templates refuse a system prompt, chat after chat."""
    source = "{{ raise_exception(os.getpid()) if messages[0].role == 'system' else os.getpid() }}"
    template = processes.open(source)
    with pytest.raises(TemplateError) as refused:
        template.render([{"role": "system", "content": ""}])
    assert str(refused.value) == template.render(CHAT) == template.render(CHAT)


# -- limits


@pytest.mark.parametrize("source", ONLY_TIME_ENDS)
def test_time_is_bounded(hurried: SandboxPool, source: str) -> None:
    """Whether it goes by while the template is read or while it renders."""
    assert refusal(hurried, source) == "it took longer than 0.3 s"


@pytest.mark.parametrize("source", TOO_MUCH_MEMORY)
def test_memory_is_bounded(processes: SandboxPool, source: str) -> None:
    """The process ends, and says why."""
    assert refusal(processes, source) == "it needed more than 256 MB of memory"


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 30000 + "1" + ")" * 30000 + " }}",
        "{{ " + "[" * 30000 + "1" + "]" * 30000 + " }}",
        "{{ 1" + " + 1" * 15000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{{ x" + ".y" * 30000 + " }}",
    ],
)
def test_depth_is_bounded(processes: SandboxPool, source: str) -> None:
    """Even if Python itself falls over it."""
    reason = refusal(processes, source)
    assert reason.startswith(("RecursionError", "MemoryError", "SyntaxError", "its process ended"))


def test_a_template_that_went_too_far_works_again(processes: SandboxPool) -> None:
    """The next chat gets a new process."""
    template = processes.open("{{ ('a' * messages[0].content | int) | length }}")
    for _ in range(2):
        with pytest.raises(TemplateError, match="memory"):
            template.render([{"role": "user", "content": "900000000"}])
        assert template.render([{"role": "user", "content": "9"}]) == "9"


# -- getting out


@pytest.mark.parametrize("source", TRICKS)
def test_tricks_get_nothing(processes: SandboxPool, tmp_path: Path, source: str) -> None:
    """They are refused, or the text shows nothing."""
    file = tmp_path / "file"
    try:
        text = processes.open(source.replace("FILE", str(file))).render(CHAT)
    except TemplateError:
        text = ""
    assert not [inside for inside in INSIDES if inside in text]
    assert not file.exists()


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    "action",
    ["open('/etc/passwd')", "open('FILE', 'w')", "os.popen('touch FILE')", "socket()", "os.pipe()"],
)
def test_who_gets_out_can_open_nothing(processes: SandboxPool, tmp_path: Path, action: str) -> None:
    """No file, no connection, no program's output."""
    file = tmp_path / "file"
    reason = refusal(processes, "{{ " + action.replace("FILE", str(file)) + " }}")
    assert "Too many open files" in reason
    assert not file.exists()


@pytest.mark.usefixtures("broken")
@pytest.mark.skipif(os.geteuid() == 0, reason="the system lets root start what it likes")
def test_who_gets_out_can_start_nothing(processes: SandboxPool) -> None:
    """No process that would outlive its own."""
    assert "temporarily unavailable" in refusal(processes, "{{ os.fork() }}")


@pytest.mark.usefixtures("broken")
def test_who_gets_out_finds_no_secrets(
    processes: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither our environment, nor a chat or a template among the arguments."""
    monkeypatch.setenv("API_KEY", "secret-key")
    template = processes.open("{# secret-template #}{{ os.getpid() }} {{ os.environ }}")
    process, _, environment = template.render(
        [{"role": "user", "content": "secret-chat"}]
    ).partition(" ")
    seen = Path(f"/proc/{process}/cmdline").read_text() + environment
    assert "secret" not in seen
    assert "TemplateProcess" not in seen


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("'nothing\n'", "its process answered nonsense"),
        ("'[]\n'", "its process answered nonsense"),
        ("'[' * 99999 + '\n'", "its process answered nonsense"),
        ("'{\"text\": 5}\n'", "its process answered nonsense"),
        ("'{\"text\": \"' + 'a' * 2000001 + '\"}\n'", "it wrote more than 2,000,000 characters"),
        ("'a' * 25000000", "it wrote more than 2,000,000 characters"),
        ("exit(1)", "its process ended"),
    ],
)
def test_who_gets_out_cannot_harm_us(processes: SandboxPool, said: str, reason: str) -> None:
    """An answer is believed no more than its author."""
    assert refusal(processes, "{{ print(" + said + ") }}") == reason


def test_nothing_is_written_to_our_output(
    processes: SandboxPool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even when Python falls over."""
    for source in (*TOO_MUCH_MEMORY, "{{ " + "(" * 30000 + " }}", "{% for %}"):
        refusal(processes, source)
    assert capfd.readouterr() == ("", "")


# -- processes


@pytest.mark.usefixtures("broken")
def test_a_process_is_one_templates(processes: SandboxPool) -> None:
    """And of one set of names; the same template finds its own again."""
    source = "{{ os.getpid() }}"
    first, again = processes.open(source), processes.open(source)
    other, named = processes.open(source + " "), processes.open(source, bos_token="<s>")
    process = first.render(CHAT)
    assert again.render(CHAT) == process
    assert len({process, other.render(CHAT).strip(), named.render(CHAT)}) == 3
    assert first.render(CHAT) == process


@pytest.mark.usefixtures("broken")
def test_the_template_not_used_for_longest_makes_room() -> None:
    """Nothing is left of its process; the others keep theirs."""
    with SandboxPool(max_processes=2) as processes:
        one, two, three = (processes.open("{{ os.getpid() }}" + " " * n) for n in range(3))
        first, second = int(one.render(CHAT)), int(two.render(CHAT))
        assert int(one.render(CHAT)) == first
        third = int(three.render(CHAT))
        assert is_gone(second)
        assert (int(one.render(CHAT)), int(three.render(CHAT))) == (first, third)
    assert is_gone(first)
    assert is_gone(third)


@pytest.mark.usefixtures("broken")
def test_a_process_that_was_killed_is_replaced(processes: SandboxPool) -> None:
    """As the system does when memory runs out."""
    template = processes.open("{{ os.getpid() }}")
    process = int(template.render(CHAT))
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert int(template.render(CHAT)) != process
    assert is_gone(process)


def test_many_threads_get_their_own_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than processes, and more templates, some of which fail."""
    monkeypatch.setattr(sandbox_pool, "WAIT_TIMEOUT", 300.0)
    sources = ["{{ messages[0].content }}", "[{{ messages[0].content }}]", "{% for %}"]

    def render(number: int) -> str:
        template, chat = processes.open(sources[number % 3]), [{"role": "user", "content": number}]
        try:
            return template.render(chat)
        except TemplateError as error:
            return str(error)[:6]

    with SandboxPool(timeout=60, max_processes=2) as processes, ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(render, range(48)))
    assert texts == [(f"{n}", f"[{n}]", "line 1")[n % 3] for n in range(48)]


def test_who_waits_too_long_for_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrusted templates delay other untrusted templates only, for a while."""
    monkeypatch.setattr(sandbox_pool, "WAIT_TIMEOUT", 0.0)
    with SandboxPool(timeout=20, max_processes=1) as processes, ThreadPoolExecutor(1) as threads:
        endless = threads.submit(refusal, processes, ENDLESS)
        until(lambda: bool(processes._busy))
        assert refusal(processes, "") == "too many templates are being rendered"
        processes.close()
        assert endless.result(TIMEOUT)  # whatever it was ended at


@pytest.mark.usefixtures("broken")
def test_closing_ends_what_is_being_rendered() -> None:
    """At once, and nothing can be rendered after it."""
    source = "{{ os.getpid() }}{% if messages[0].content == 'go' %}" + ENDLESS + "{% endif %}"
    with SandboxPool(timeout=60) as processes, ThreadPoolExecutor(1) as threads:
        template = processes.open(source)
        process = int(template.render(CHAT))
        going = threads.submit(template.render, [{"role": "user", "content": "go"}])
        until(lambda: computes(process))
        processes.close()
        with pytest.raises(TemplateError, match=r"its process ended|the program is ending"):
            going.result(TIMEOUT)
        assert is_gone(process)
        assert refusal(processes, source) == "the program is ending"


class Abort(BaseException):
    """Stand for what interrupts a thread that waits."""


@pytest.mark.usefixtures("broken")
def test_an_abort_ends_the_process() -> None:
    """What it would have answered must not become the next chat's prompt."""
    source = "{{ os.getpid() }}{% if messages[0].content == 'go' %}" + ENDLESS + "{% endif %}"

    def stop(*_: object) -> None:
        raise Abort

    former = signal.signal(signal.SIGALRM, stop)
    try:
        with SandboxPool(timeout=60) as processes, ThreadPoolExecutor(1) as threads:
            template = processes.open(source)
            process = int(template.render(CHAT))

            def abort() -> None:
                until(lambda: computes(process))
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

            with pytest.raises(Abort):
                threads.submit(abort)
                template.render([{"role": "user", "content": "go"}])
            assert is_gone(process)
            assert int(template.render(CHAT)) != process
    finally:
        signal.signal(signal.SIGALRM, former)


PARENT = f"""
import sys
sys.path.insert(0, sys.argv[1])
import {SandboxProcess.__module__} as sandbox
from {SandboxPool.__module__} import SandboxPool
(name, language), *others = sandbox.SOURCES
language = language.replace("update(\\n", "update(\\n        getpid=__import__('os').getpid,\\n")
sandbox.SOURCES = ((name, language), *others)
exchange = sandbox.SandboxProcess._exchange  # which a busy machine may need longer for
sandbox.SandboxProcess._exchange = lambda process, line, _: exchange(process, line, 60)
template = SandboxPool(timeout=1).open(sys.argv[2])
print(template.render([{{"role": "user", "content": ""}}]), flush=True)
for content in sys.stdin:
    template.render([{{"role": "user", "content": content.strip()}}])
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="it watches a process that is not ours")
@pytest.mark.parametrize("order", ["", "go\n"], ids=["idle", "computing"])
def test_a_process_does_not_survive_us(order: str) -> None:
    """However we end: it reads the end of its orders, or has used up its time."""
    source = "{{ getpid() }}{% if messages[0].content == 'go' %}" + ENDLESS + "{% endif %}"
    command = [sys.executable, "-c", PARENT, str(ROOT), source]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        watch = os.pidfd_open(process)
        parent.stdin.write(order.encode())
        parent.stdin.flush()
        if order:
            until(lambda: computes(process))
        parent.kill()
    try:
        # it may take 3 s of processor time
        assert select.select([watch], [], [], TIMEOUT)[0] == [watch]
    finally:
        os.close(watch)


def test_a_process_that_cannot_start_is_one_line(
    processes: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Python there, or one that does not know what we need."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert refusal(processes, "").startswith("its process could not be started: [Errno 2]")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert refusal(processes, "") == "its process could not be started: its process ended"


def test_it_works_out_of_a_file(tmp_path: Path) -> None:
    """Our sources lie in an archive then, which may be gone by the time they are needed."""
    archive = tmp_path / "kuwa.pyz"
    with zipfile.ZipFile(archive, "w") as made:
        for package in ("backends", "kuwa_min"):
            for source in (ROOT / package).rglob("*.py"):
                made.write(source, f"site-packages/{source.relative_to(ROOT)}")
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1] + '/site-packages')\n"
        f"import {SandboxPool.__module__} as sandbox_pool\n"
        "print(sandbox_pool.__file__)\n"
        "os.remove(sys.argv[1])\n"
        "with sandbox_pool.SandboxPool() as processes:\n"
        "    print(processes.open('{{ messages[0].content }}').render([{'content': 'Hello'}]))\n"
    )
    command = [sys.executable, "-c", program, str(archive)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    place, said = done.stdout.splitlines()
    assert place.startswith(str(archive))
    assert said == "Hello"
    assert done.stderr == ""
