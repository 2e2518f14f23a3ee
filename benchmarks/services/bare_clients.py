"""Read a service of OpenAI's kind without us: by the SDK's own objects, or by http.client.

A process of its own: its one line of output is JSON, the seconds that all chats took together and
the pieces' delays. One thread and one connection a chat; a first chat warms up before the clock.
"""

import argparse
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from harness.process import HOST

Read = Callable[[str], Iterator[str]]  # what is wished -> the pieces


def main() -> None:
    """Run this many chats at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("kind", choices=("sdk", "http"))
    add("port", type=int)
    add("chats", type=int)
    add("wish", help="pieces and seconds between them, as openai_floor.py takes it")
    options = parser.parse_args()
    create = {"sdk": sdk, "http": plain}[options.kind]
    read = create(options.port, options.chats)
    list(read("10 0"))
    taken: list[list[float]] = []
    threads = [
        threading.Thread(target=take, args=(read, options.wish, taken))
        for _ in range(options.chats)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    delays = [delay for chat in taken for delay in chat]
    print(json.dumps({"seconds": seconds, "pieces": len(delays), "delays": delays[:10_000]}))


def take(read: Read, wish: str, taken: list[list[float]]) -> None:
    """Read one chat; keep the delays of its pieces, where they say when they were written."""
    timed = not wish.endswith(" 0")
    delays = [(time.monotonic_ns() - int(piece)) / 1e9 if timed else 0.0 for piece in read(wish)]
    taken.append(delays)


def sdk(port: int, chats: int) -> Read:
    """Return what reads by the SDK's typed objects, as its documentation shows it."""
    import openai

    client = openai.OpenAI(api_key="none", base_url=f"http://{HOST}:{port}/v1")

    def read(wish: str) -> Iterator[str]:
        messages = [{"role": "user", "content": wish}]
        stream = client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
        for found in stream:
            if found.choices and found.choices[0].delta.content:
                yield found.choices[0].delta.content

    return read


def plain(port: int, chats: int) -> Read:
    """Return what reads lines by http.client, and takes their JSON apart."""
    return partial(_lines, port)


def _lines(port: int, wish: str) -> Iterator[str]:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": wish}], "stream": True}
    connection = http.client.HTTPConnection(HOST, port)
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            if content := choices[0]["delta"].get("content"):
                yield content
    connection.close()


if __name__ == "__main__":
    main()
