"""What sends events: connections that open again, requests of a hundred rows, threads that fail together."""

import http.client
import json
import threading
from collections.abc import Callable

BATCH = 100


class Client:
    """One connection to a server, opened again where it broke."""

    def __init__(self, url: str):
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port, self._connection = int(port), None

    def post(self, path: str, body: dict) -> tuple[int, dict]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=10)
        try:
            self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            self._connection = None
            raise


def rows_of(sender: int, number: int, items: int) -> list[dict]:
    """A request's events: of a few shoppers each."""
    return [
        {"event_id": f"{sender}-{number}-{n}", "user_id": f"u{(number * BATCH + n) % 2000:06d}", "event": "view", "item_id": f"sku{(n * 37 + number) % items:07d}"}
        for n in range(BATCH)
    ]  # fmt: skip


def together(work: Callable[[int], None], count: int) -> None:
    """Does work(0) ... work(count - 1) in a thread each; the first that fails is raised."""
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
