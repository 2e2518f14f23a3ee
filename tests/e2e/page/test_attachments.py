"""Pictures and texts that are attached to a message, and the settings of a chat: what is sent."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from PIL import Image

from .chat_page import NEEDS_CHROMIUM, Page, answering, frame, text

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]

TRANSFER = """
const [kind, target, name, content] = arguments, data = new DataTransfer();
data.items.add(new File([content], name));
const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
const files = {clipboardData: data, dataTransfer: data};
const event = new Kind(kind, {...files, bubbles: true, cancelable: true});
return !document.querySelector(target).dispatchEvent(event);
"""


def send(page: Page, kernel: str, message: str) -> dict[str, Any]:
    """Send a message, and return the fields of the form that an executor got."""
    with answering(kernel, frame(text("Fine."))) as one:
        page.choose("fake")
        if message:
            page.write(message)
        page.one("#send").click()
        page.wait(lambda: one.bodies)
        page.whole()
        form = parse_qs(one.bodies[-1].decode())
    return {name: json.loads(values[0]) for name, values in form.items() if values[0][:1] == "["}


def attach(page: Page, *paths: Path) -> None:
    """Choose files, as the button does, and wait until they are read."""
    names = [path.name for path in paths]
    page.one("#tools input[type=file]").send_keys("\n".join(map(str, paths)))
    page.wait(lambda: all(name in page.one("#attached").text for name in names))


def test_files_are_sent_as_executors_read_them_and_stay_with_their_message(
    page: Page, kernel: str, tmp_path: Path
) -> None:
    """A picture's address on a line before the text, a text between fences; also after a reload."""
    small, notes = tmp_path / "small.png", tmp_path / "notes.txt"
    Image.new("RGB", (12, 8), "teal").save(small)
    notes.write_text("one\n```\ntwo 中\n```", encoding="utf-8")
    attach(page, small, notes)
    form = send(page, kernel, "What is it?")
    (sent,) = form["input"]
    assert form["modelfile"] == [{"name": "parameter", "args": "llm_enable_multimodal true"}]
    picture, rest = sent["msg"].split("\n", 1)
    assert picture.startswith("data:image/png;base64,")
    assert base64.b64decode(picture.partition(",")[2]) == small.read_bytes()
    assert rest == "notes.txt:\n````\none\n```\ntwo 中\n```\n````\n\nWhat is it?"
    assert not page.one("#attached").is_displayed()
    page.driver.refresh()
    page.wait(lambda: page.texts(".user .files li"))
    wide = "return document.querySelector('.user .files img').naturalWidth"
    page.wait(lambda: page.driver.execute_script(wide) == 12)
    (earlier, *_, again) = send(page, kernel, "Again")["input"]
    assert earlier["msg"] == sent["msg"]
    assert again["msg"] == "Again"


def test_a_large_picture_is_made_smaller(page: Page, kernel: str, tmp_path: Path) -> None:
    """So that it fits into a form, in which a chat's pictures are sent again at each turn."""
    large = tmp_path / "large.png"
    Image.effect_noise((2600, 1300), 90).convert("RGB").save(large)
    attach(page, large)
    (sent,) = send(page, kernel, "")["input"]
    data = sent["msg"].removeprefix("data:image/jpeg;base64,")
    made = tmp_path / "made.jpg"
    made.write_bytes(base64.b64decode(data))
    with Image.open(made) as picture:
        assert picture.size == (2048, 1024)
    assert len(data) < large.stat().st_size / 3


def test_only_the_newest_pictures_of_a_long_chat_are_sent(page: Page) -> None:
    """A form has a limit; without this no further message of the chat could be sent."""
    script = """
    const [done] = arguments, picture = `data:image/png;base64,${"A".repeat(2 << 20)}`;
    import(new URL("page/attachments/sent_text.js", location.origin)).then(({ withinLimit }) => {
      const sent = withinLimit([1, 2, 3].map(n => ({ msg: `${picture}\\nNo. ${n}` })));
      done(sent.map(one => one.msg.replace(picture, "data")));
    });
    """
    sent = page.driver.execute_async_script(script)
    assert sent == ["[picture]\nNo. 1", "data\nNo. 2", "data\nNo. 3"]


def test_what_cannot_be_attached_is_said_and_what_is_can_be_removed(
    page: Page, kernel: str, tmp_path: Path
) -> None:
    """In a sentence for each file; the message is sent without them."""
    contents = {
        "big.txt": b"x" * 300_000,
        "odd.bin": bytes(range(256)),
        "empty.txt": b"",
        "broken.png": b"\x89PNG\r\n\x1a\n1234",
    }
    paths = [tmp_path / name for name in contents]
    for path in paths:
        path.write_bytes(contents[path.name])
    attach(page, *paths)
    problem = page.texts("#attached .problem")[0]
    assert "“big.txt” has 293 KB; at most 200 KB can be attached." in problem
    assert "“odd.bin” is neither a picture (PNG, JPEG, WebP, GIF) nor text in UTF-8." in problem
    assert "“empty.txt” is empty." in problem
    assert "“broken.png” is no picture that can be read." in problem
    good = tmp_path / "good.txt"
    good.write_text("good")
    attach(page, good)
    assert page.texts("#attached .problem") == []
    page.one("#attached [aria-label='Remove “good.txt”']").click()
    assert not page.one("#attached").is_displayed()
    assert send(page, kernel, "Hi")["input"] == [{"isbot": False, "msg": "Hi"}]


@pytest.mark.parametrize(("kind", "target"), [("paste", "#message"), ("drop", "#log")])
def test_files_are_dropped_and_pasted(page: Page, kernel: str, kind: str, target: str) -> None:
    """Anywhere on the page, and into the box."""
    assert page.driver.execute_script(TRANSFER, kind, target, "a.txt", "dropped")
    page.wait(lambda: page.texts("#attached .name") == ["a.txt"])
    (sent,) = send(page, kernel, "")["input"]
    assert sent["msg"] == "a.txt:\n```\ndropped\n```\n"


def test_settings_of_a_chat_go_to_the_executor(page: Page, kernel: str) -> None:
    """As a bot's Modelfile has them; what is empty is not sent; another chat has its own."""
    assert send(page, kernel, "First")["modelfile"] == []
    page.one("#tools [aria-label='Settings of this chat']").click()
    fields = {"system": 'Be "brief"', "temperature": "hot", "max_tokens": "0"}
    for name, value in fields.items():
        page.one(f".settings [name={name}]").send_keys(value)
    page.one(".settings .primary").click()
    assert page.texts(".settings .problem") == [
        "",
        "A number from 0 to 2, such as 0.7.",
        "A whole number from 1 to 1000000.",
    ]
    assert page.driver.switch_to.active_element.get_attribute("name") == "temperature"
    for name, value in {"temperature": "0.25", "max_tokens": "50"}.items():
        page.one(f".settings [name={name}]").clear()
        page.one(f".settings [name={name}]").send_keys(value)
    page.one(".settings .primary").click()
    asked = [
        {"name": "system", "args": '"""Be "brief""""'},
        {"name": "parameter", "args": "llm_temperature 0.25"},
        {"name": "parameter", "args": "llm_max_tokens 50"},
    ]
    assert send(page, kernel, "Second")["modelfile"] == asked
    page.driver.refresh()
    page.wait(lambda: page.texts(".user"))
    assert send(page, kernel, "Third")["modelfile"] == asked
    page.one("#new").click()
    assert send(page, kernel, "Other")["modelfile"] == []
    assert re.search("#.", page.driver.current_url)
