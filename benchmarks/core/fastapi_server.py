"""Serve the debug executor's bytes with FastAPI on uvicorn, by default its fastest setup.

`--plain` runs on asyncio and h11, what uvicorn brings along, in place of uvloop and httptools.
`--without_sleep` leaves out the `await asyncio.sleep(0)` between pieces. `--framed` sends the lines
of Kuwa 0.4, one for each piece, as its own executor does.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

Pieces = Callable[[str], AsyncIterator[str]]


def sleeping(delay: float) -> Pieces:
    """Return a source that sleeps after each character, as the old executor does even at 0."""

    async def pieces(text: str) -> AsyncIterator[str]:
        for character in text:
            yield character
            await asyncio.sleep(delay)

    return pieces


async def hurrying(text: str) -> AsyncIterator[str]:
    """Yield character after character, never waiting."""
    for character in text:
        yield character


def framed(pieces: Pieces) -> Pieces:
    """Return a source of the same pieces as lines of Kuwa 0.4, and the last line."""

    async def lines(text: str) -> AsyncIterator[str]:
        count = 0
        async for piece in pieces(text):
            count += len(piece)
            yield line(None, {"type": "text", "text": {"value": piece, "annotations": []}})
        usage = {"prompt_tokens": 0, "completion_tokens": count, "total_tokens": count}
        yield line("stop", {"type": "exit_code", "exit_code": 0}, usage=usage)

    return lines


def line(finish_reason: str | None, chunk: dict[str, object], **more: object) -> str:
    """Return a line with one chunk."""
    return f"data: {json.dumps({'finish_reason': finish_reason, 'delta': [chunk], **more})}\n"


def application(pieces: Pieces) -> FastAPI:
    """Return an application with the executor's routes."""
    app = FastAPI()

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=204)

    @app.post("/chat")
    @app.post("/chat/{slot}")
    async def chat(request: Request) -> StreamingResponse:
        form = parse_qs((await request.body()).decode())
        text = json.loads(form["input"][0])[-1]["msg"]
        return StreamingResponse(pieces(text), media_type="text/event-stream")

    return app


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--without_sleep", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--framed", action="store_true")
    args = parser.parse_args()
    pieces = hurrying if args.without_sleep else sleeping(args.delay)
    app = application(framed(pieces) if args.framed else pieces)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=args.port,
        loop="asyncio" if args.plain else "uvloop",
        http="h11" if args.plain else "httptools",
        lifespan="off",
        log_level="warning",
    )


if __name__ == "__main__":
    main()
