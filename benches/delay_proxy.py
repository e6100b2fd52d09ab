"""Passes TCP connections on to another port of the loopback, each byte some time later: a server that is far away.

python benches/delay_proxy.py PORT_TO_LISTEN PORT_OF_THE_SERVER SECONDS_EACH_WAY
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

HOST = "127.0.0.1"
CHUNK = 1 << 16
Late = tuple[float, bytes]


async def main() -> None:
    listen, server, delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(HOST, server)
            await asyncio.gather(passed_on(reader, far_writer, delay), passed_on(far_reader, writer, delay))

    async with await asyncio.start_server(connected, HOST, listen) as running:
        await running.serve_forever()


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Until either end closes."""
    clock = asyncio.get_running_loop().time
    waiting: asyncio.Queue[Late] = asyncio.Queue()

    async def write() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - clock()))
            if not data:
                break
            writer.write(data)
            await writer.drain()

    writing = asyncio.create_task(write())
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            waiting.put_nowait((clock() + delay, data))
    waiting.put_nowait((clock() + delay, b""))
    with contextlib.suppress(OSError):
        await writing
    writer.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
