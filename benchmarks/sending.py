"""Is every message sent once, whatever happens? Two senders are killed again and again while a receiver fails, hangs, answers twice and lies.

    python -m benchmarks.sending --kills 200       # seven minutes

The receiver is an HTTP server of this machine that knows keys again, as webhooks do: of the messages it gets, some are refused, some are taken and answered with an error, some are never
answered, some are answered twice. In between the campaign is paused and resumed, shoppers opt out, and the outbox of an earlier moment is put back. Prints what became of it.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from benchmarks.quality import ROOT
from marketing import outbox
from marketing.channels import webhook

CAMPAIGN = "kills"
SECRET = b"secret of the benchmark"
SOON = 0.1  # seconds after an opt-out from which nothing may come
PATIENCE = 0.4  # seconds that senders give the receiver here


class Receiver(BaseHTTPRequestHandler):
    """Takes messages, badly."""

    taken: ClassVar[dict[str, float]] = {}  # when each key first came through
    users: ClassVar[dict[str, set[str]]] = {}  # keys that each shopper got
    wrong: ClassVar[list[str]] = []
    chance = random.Random(0)
    lock = threading.Lock()

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        if len(body := self.rfile.read(size)) < size:  # whose sender was killed
            return
        key, at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        if self.headers["webhook-signature"] != webhook.signature(SECRET, key, at, body):
            self.wrong.append(key)
        with self.lock:
            mood = self.chance.random()
            if mood > 0.08:
                self.taken.setdefault(key, time.time())
                self.users.setdefault(json.loads(body)["user_id"], set()).add(key)
        try:
            if mood < 0.08:
                self.send_error(503)
            elif mood < 0.14:  # it was taken
                self.send_error(500)
            elif mood < 0.17:
                time.sleep(2 * PATIENCE)
                self.send_response(200)
                self.end_headers()
            else:
                for _ in range(2 if mood < 0.25 else 1):
                    self.send_response(200)
                    self.send_header("content-length", "0")
                    self.end_headers()
        except OSError:
            return  # the sender was killed, or did not wait

    def log_message(self, *_: object) -> None:
        return


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--kills", type=int, default=200)
    cli.add_argument("--worker", nargs=2, metavar=("OUTBOX", "URL"), help=argparse.SUPPRESS)
    chosen = cli.parse_args()
    if chosen.worker:
        return work(*chosen.worker)
    print(json.dumps(killed(chosen.kills), indent=1))


def work(database: str, url: str) -> None:
    """A sender that works until it is killed."""
    from marketing import sending

    webhook.SECONDS = PATIENCE
    sending.LEASE = 2.0
    outbox.FIRST_WAIT, outbox.MOST_TRIES = 0.05, 40
    box = opened(Path(database))
    while True:
        sending.send(box, {"push": webhook.Webhook(url, SECRET, None)})
        time.sleep(0.05)


def opened(database: Path) -> outbox.Outbox:
    return outbox.Outbox(f"sqlite:///{database}", database.with_suffix(".journal"))


def killed(kills: int) -> dict:
    """What became of the messages after so many kills: double, lost, sent in spite of an opt-out, wrongly signed, and how many there were."""
    rng, total = random.Random(1), 40 * kills + 200
    Receiver.taken, Receiver.users, Receiver.wrong = {}, {}, []
    with TemporaryDirectory() as scratch:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, database = f"http://127.0.0.1:{server.server_port}/", Path(scratch) / "outbox.sqlite"
        box, now = opened(database), time.time()
        box.open(CAMPAIGN)
        made = [
            outbox.Message(CAMPAIGN, f"u{n}", 0, f"i{n % 7}", "push", "offers", {"subject": "", "text": "x", "link": ""}, now, now + 1e6)
            for n in range(total)
        ]  # fmt: skip
        box.put(made)
        senders = [start(database, url) for _ in range(2)]
        opted: dict[str, float] = {}
        try:
            for number in range(kills):
                time.sleep(rng.uniform(0.2, 1.6))
                which = rng.randrange(2)
                senders[which].send_signal(signal.SIGKILL)
                senders[which].wait()
                if number % 5 == 1:
                    box.set_state(CAMPAIGN, outbox.PAUSED, "benchmark", "pause")
                elif number % 5 == 2:
                    box.set_state(CAMPAIGN, outbox.RUNNING, "benchmark", "resume")
                for user in rng.sample(range(total), 2):
                    box.opt_out(f"u{user}", time.time())
                    opted.setdefault(f"u{user}", time.time())
                if number == kills // 3:
                    kept = Path(scratch) / "kept.sqlite"
                    backup(database, kept)
                if number == 2 * kills // 3:
                    for sender in senders:
                        sender.kill()
                        sender.wait()
                    box.engine.dispose()
                    for file in database.parent.glob("outbox.sqlite*"):
                        file.unlink()
                    shutil.copy(kept, database)
                    box = opened(database)
                    box.put(made)
                    senders[1 - which] = start(database, url)
                senders[which] = start(database, url)
            box.set_state(CAMPAIGN, outbox.RUNNING, "benchmark", "end")
            ends = time.monotonic() + 60 + total / 50
            while time.monotonic() < ends:
                counts = box.counts(CAMPAIGN)
                if not any(counts.get(state) for state in (outbox.WAITING, outbox.LEASED, outbox.SENDING)):
                    break
                time.sleep(0.2)
        finally:
            for sender in senders:
                sender.kill()
                sender.wait()
            server.shutdown()
        counts = box.counts(CAMPAIGN)
        late = [
            k
            for k, user in ((m.key, m.user_id) for m in made)
            if user in opted and Receiver.taken.get(k, 0) > opted[user] + 2 * PATIENCE + 0.1
        ]
        spared = {m.key for m in made if m.user_id in opted}
        return {
            "messages": total,
            "kills": kills,
            "double": sum(len(keys) - 1 for keys in Receiver.users.values()),
            "lost": sum(m.key not in Receiver.taken for m in made if m.key not in spared),
            "in_spite_of_opt_out": len(late),
            "wrongly_signed": len(Receiver.wrong),
            "states": counts,
        }


def start(database: Path, url: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.sending", "--worker", str(database), url], cwd=ROOT)


def backup(database: Path, copy: Path) -> None:
    """The outbox as it is at this moment, as a backup keeps it."""
    import sqlite3

    with sqlite3.connect(database, timeout=60) as here, sqlite3.connect(copy) as there:
        here.backup(there)


if __name__ == "__main__":
    main()
