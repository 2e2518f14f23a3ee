"""Answers in Markdown: what is drawn, that it streams, and that hostile ones are harmless."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from kuwa_min.packing.libraries.page_libraries import PACKAGES

from .chat_page import NEEDS_CHROMIUM, Page, answering, executor, frame, text
from .conftest import PAGE_IS_AT

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]

SAMPLE = """# A heading

Some *emphasis*, **strong** words, `code`, a [link](https://example.org/a?b=c&d) and H<sub>2</sub>O.
Math: $a_1*b$ and $c_2*d$, \\(x_1 \\ne *y*\\), *before $e*f$ behind*; prices: $5 and $10.

- one
- two
  - nested

  more of two
- three

2. second
   ```sh
   ls

   cd
   ```
3. third

> a quote
> - in it a list

| left | middle |
|------|:------:|
| 1    | `a_b`  |

Steps:
1. first
```python
def f():
    return 1  # one
```

$$
\\frac{a_1}{b_2} \\\\
*c*
$$

\\[ d_1 \\]

---
The end.
"""
HOSTILE = """
<script>document.title = "script"</script>
<img src="http://127.0.0.1:9/image.png" onerror="document.title = 'onerror'">
<svg onload="document.title = 'svg'"><script>document.title = "svg"</script></svg>
<math><mtext><table><mglyph><style><img src=x onerror="document.title = 'm'"></style></table></math>
<iframe src="http://127.0.0.1:9/f" srcdoc="<script>parent.document.title = 'f'</script>"></iframe>
<form action="http://127.0.0.1:9/form" id="body"><input name="cookie" autofocus
 onfocus="document.title = 'focus'"></form>
<style>@import "http://127.0.0.1:9/style.css"; * { background: url(http://127.0.0.1:9/b) }</style>
<link rel="stylesheet" href="http://127.0.0.1:9/link.css"><base href="http://127.0.0.1:9/">
<a id="log" name="getElementById" href="http://127.0.0.1:9/" ping="http://127.0.0.1:9/">clobber</a>
<video src="http://127.0.0.1:9/video" autoplay></video><object data="http://127.0.0.1:9/object"></object>
<b onclick="document.title = 'b'" style="position: fixed; inset: 0">bold</b> <b>fine</b>

![alt words](http://127.0.0.1:9/picture.png) ![](data:image/svg+xml,<svg/onload=alert(1)>)
[one](javascript:document.title='link') [two](data:text/html,<script>document.title='data'</script>)
[three](vbscript:x) [four](/v1.0/worker/list) [five](//127.0.0.1:9/) [six](JaVaScRiPt&colon;alert)
[seven](https://example.org/"onmouseover="document.title='quote') [eight](<java\tscript:alert(1)>)
<https://example.org/auto> [https://good.example](https://evil.example/path)
[https://good.example/?evil.example](https://evil.example/) [evil.example.good.example](https://evil.example/)

[ref]: javascript:alert(1)

<kbd>raw <img src=x onerror=document.title='kbd'

```"><img src=x onerror=document.title='language'>
</code></pre><img src=x onerror="document.title = 'code'">
admin\u202e\u2066 == \u2069\u2066"user"\u200b
```
"""
REPEATED = (
    ">¦[¦`a``b¦<a ¦![¦$a ¦\\(a ¦> - ¦_a¦*a ¦&¦~~a ¦<!--¦http://¦a@¦a.¦|¦- ¦# ¦\\[\n¦$$\n¦a\n=¦\\¦**"
)
BOMBS = [
    *(one * (20_000 // len(one)) for one in REPEATED.split("¦")),
    "".join(f"{' ' * 2 * n}- x\n" for n in range(400)),
    "\n".join(">" * n for n in range(400)),
]
BODY = """
const [source, size, done] = arguments, element = document.createElement("div");
document.getElementById("log").append(element);
import(new URL("page/markdown/body.js", location.origin)).then(({ createBody }) => {
  const body = createBody(element), times = [performance.now()];
  const step = Math.ceil(source.length / size / 2) * size;
  for (let at = 0; at < source.length; at += size) {
    body.write(source.slice(at, at + size));
    body.draw();
    if (element.firstElementChild) element.firstElementChild.dataset.drawn ??= "once";
    if (at + size === step) times.push(performance.now());
  }
  body.end();
  times.push(performance.now());
  const found = [element.innerHTML, element.firstElementChild.dataset.drawn, times];
  element.remove();
  done(found);
});
"""


@pytest.fixture(scope="module")
def kernel(rich_dist: Path) -> Iterator[str]:
    """Return the address of the Kernel in a file that carries the page's libraries."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--delay", "0")
    with executor("dummy", *options, dist=rich_dist, until=PAGE_IS_AT) as found:
        yield found[1]


def test_the_file_has_the_licences_of_the_pages_libraries(rich_dist: Path) -> None:
    """Their texts, without the documents beside it; and the bill of materials names them."""
    command = (sys.executable, str(rich_dist / "kuwa-dummy.pyz"))
    texts, bill = (
        subprocess.run([*command, option], check=True, capture_output=True, text=True).stdout
        for option in ("--licenses", "--sbom")
    )
    libraries = {one.name: one.version for one in PACKAGES}
    listed = {one["name"]: one["version"] for one in json.loads(bill)["components"]}
    assert libraries.items() <= listed.items()
    assert all(f"{package.file.removesuffix('.js')}." in texts for package in PACKAGES)
    assert "Permission is hereby granted" in texts
    assert "Redistribution and use in source and binary forms" in texts


def say(page: Page, kernel: str, *chunks: dict[str, Any]) -> list[bytes]:
    """Have an answer of these chunks, each in a frame, drawn; return the requests' bodies."""
    with answering(kernel, *map(frame, chunks)) as one:
        page.choose("fake")
        page.say("Hi")
        page.wait(lambda: page.texts(".assistant[aria-busy=false]"))
        page.whole()
        return one.bodies


def count(page: Page, css: str) -> int:
    """Return the number of elements of the last answer's text that match."""
    script = (
        "const last = [...document.querySelectorAll('.assistant .text')].at(-1);"
        "return last.querySelectorAll(arguments[0]).length"
    )
    return int(page.driver.execute_script(script, css))


def body(page: Page, source: str, size: int) -> tuple[str, str, list[float]]:
    """Draw a text in pieces of a size, each at once; return HTML, a mark, and three times in ms."""
    html, mark, times = page.driver.execute_async_script(BODY, source, size)
    return html, mark, times


def test_an_answer_is_drawn_as_it_is_meant(page: Page, kernel: str) -> None:
    """Each kind of block; code gets its colours from a worker; math stays as it was written."""
    say(page, kernel, text(SAMPLE))
    page.wait(lambda: count(page, ".hljs-keyword"))
    assert page.texts(".text h3") == ["A heading"]
    assert page.texts(".text > ul > li")[2] == "three"
    assert page.texts(".text li li") == ["nested"]
    assert page.texts(".text blockquote li") == ["in it a list"]
    assert page.texts(".text td") == ["1", "a_b"]
    assert page.texts(".text td[align=center]") == ["a_b"]
    assert page.texts(".code_head .language") == ["sh", "python"]
    assert page.texts(".code_block code")[0].strip() == "ls\n\ncd"
    assert page.texts(".text ol[start='2'] > li")[1] == "third"
    math = ["$a_1*b$", "$c_2*d$", "\\(x_1 \\ne *y*\\)", "$e*f$"]
    assert page.texts(".text span.math") == math
    assert page.texts(".text div.math") == ["$$\n\\frac{a_1}{b_2} \\\\\n*c*\n$$", "\\[ d_1 \\]"]
    assert "prices: $5 and $10." in page.look()[1]
    assert page.texts(".text sub") == ["2"]
    assert page.driver.get_log("browser") == []


def test_code_is_copied_as_it_is_seen(page: Page, kernel: str) -> None:
    """Without what cannot be seen, which is named."""
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    grant = {"origin": page.url.rstrip("/"), "permissions": permissions}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", grant)
    say(page, kernel, text("```js\nif (user\u202e\u200b) go();  // 中\n```\n"))
    page.wait(lambda: count(page, ".hljs-keyword"))
    assert page.texts(".invisible") == ["U+202E", "U+200B"]
    page.one(".code_head button").click()
    page.wait(lambda: page.texts(".code_head button") == ["Copied."])
    read = "navigator.clipboard.readText().then(arguments[0])"
    assert page.driver.execute_async_script(read) == "if (user) go();  // 中\n"


def test_a_hostile_answer_is_text(page: Page, kernel: str) -> None:
    """Nothing runs, nothing is asked for, nothing covers the page; links say where they lead."""
    title = page.driver.title
    say(page, kernel, text(HOSTILE))
    said = page.look()[1]
    for one in ("<script>", "<img src=", "<svg onload", "<iframe", "<style>", "<b onclick"):
        assert one in said
    assert "alt words (http://127.0.0.1:9/picture.png)" in said
    assert "one (javascript:document.title='link')" in said
    elements = "script, img, svg, math, iframe, form, input, style, link, base, video, object"
    assert count(page, f"{elements}, [id], [name], [style], [onclick], [ping], [srcdoc]") == 0
    assert page.texts(".text b") == ["fine"]
    assert page.texts(".invisible")[:2] == ["U+202E", "U+2066"]
    links = page.driver.execute_script(
        "return [...document.querySelectorAll('.text a')].map(a => [a.href, a.rel, a.target])"
    )
    assert len(links) == 6
    assert all(href.startswith(("https://", "http://127.0.0.1:9/picture")) for href, *_ in links)
    assert all(more == ["noopener noreferrer", "_blank"] for _, *more in links)
    places = "return [...document.querySelectorAll('.text a')].map(a => a.dataset.place || '')"
    assert page.driver.execute_script(places)[-4:] == ["", *["evil.example"] * 3]
    assert page.driver.title == title
    asked = [one["url"] for one in page.requests()]
    assert [one for one in asked if not one.startswith((page.url, "data:"))] == []
    assert page.driver.get_log("browser") == []
    assert page.one("#log").get_attribute("role") == "log"


def test_bombs_are_drawn_and_the_page_goes_on(page: Page) -> None:
    """Each one in parts of a bounded size, and what is nested without an end as plain text."""
    for bomb in BOMBS:
        html, _, _ = body(page, bomb, 4000)
        assert html
    assert "<blockquote>" not in html


def test_the_cost_of_a_long_answer_is_linear(page: Page) -> None:
    """The second half costs what the first does; finished blocks are not touched again."""
    source = "First.\n\n" + "".join(f"## {n}\n\n{SAMPLE}\n" for n in range(40))
    list_of_all = "".join(f"{n}. an *item* of a long list\n" for n in range(1, 1500))

    def is_linear(text: str) -> bool:
        _, mark, (start, half, end) = body(page, text, 40)
        assert mark == "once"
        return end - half < 3 * (half - start)

    for one in (source, list_of_all):
        page.wait(partial(is_linear, one))  # the machine may be busy with others, but not for ever


def test_the_pieces_of_an_answer_make_no_difference(page: Page) -> None:
    """Cut at every place, and half-open fences are code at once."""
    whole, *_ = body(page, SAMPLE, len(SAMPLE))
    for size in (1, 2, 3, 7, 50, 133):
        assert body(page, SAMPLE, size)[0] == whole
    opened, *_ = body(page, "text\n```py\nprint(1", 3)
    assert '<span class="language">py</span>' in opened
    assert ">print(1\n</code>" in opened


def test_thoughts_are_folded_and_no_part_of_the_history(page: Page, kernel: str) -> None:
    """Those of a chunk of their own, and those between tags; a reload shows them again."""
    thought = {"type": "thought", "thought": {"text": "\nHm, <b>what</b>?"}}
    say(page, kernel, thought, thought, text("It is *this*."))
    assert page.texts(".thought") == ["Hm, <b>what</b>?\nHm, <b>what</b>?"]
    assert re.fullmatch(r"Thought for \d+ s", *page.texts(".thoughts summary"))
    assert not page.one(".thought").is_displayed()
    assert page.whole().strip() == "It is this."
    pieces = ["\n<th", "ink>\nTa", "gs</thi", "nk>\n\nThe ", "answer"]
    (*_, sent) = say(page, kernel, *map(text, pieces))
    assert page.texts(".thought")[1:] == ["Tags"]
    assert page.whole().strip() == "The answer"
    assert json.loads(parse_qs(sent.decode())["input"][0]) == [
        {"isbot": False, "msg": "Hi"},
        {"isbot": True, "msg": "It is *this*."},
        {"isbot": False, "msg": "Hi"},
    ]
    page.driver.refresh()
    page.wait(lambda: len(page.texts(".thoughts summary")) == 2)
    assert page.texts(".thought")[1:] == ["Tags"]
