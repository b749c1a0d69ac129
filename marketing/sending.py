"""Sends what is due, once: takes messages from the outbox, asks of each at the last moment whether anything hinders it, hands it to its channel, confirms.

In: an outbox, channels. Out: messages with their receivers. It may be killed at any moment and started again, beside others.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from marketing.channels import Channel, NotNow, Refused
from marketing.outbox import Message, Outbox

AT_ONCE = 8  # messages that are on their way together
LEASE = 120.0  # seconds in which a sender has to do what it took


class Clock:
    """The time, and waiting."""

    def now(self) -> float:
        return time.time()

    def wait(self, seconds: float) -> None:
        """Waits, but never long: what becomes due meanwhile, or is leased to nobody any more, is not kept waiting."""
        time.sleep(min(seconds, 5.0))


class Leaping(Clock):
    """A time that is wherever the next message is due: for shops that are simulated, and dry runs."""

    def __init__(self, start: float = 0.0):
        self.at = start

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += seconds


def send(
    outbox: Outbox,
    channels: Mapping[str, Channel],
    clock: Clock | None = None,
    patience: float | None = None,
    watch: Callable[[int], None] = lambda sent: None,
) -> float | None:
    """Sends until nothing of running campaigns is left, or until the next message is due in more than `patience` seconds: then, when that is.

    watch: told how many messages were handed over so far.
    """
    clock, owner, sent = clock or Clock(), uuid.uuid4().hex, 0
    known_again = [name for name, channel in channels.items() if channel.known_again]

    def one(leased: tuple[str, Message]) -> bool:
        key, message = leased
        if outbox.begin(key, owner, clock.now()) is not None:
            return False
        channel = channels.get(message.channel)
        try:
            if channel is None:
                raise Refused(f"nothing is said of the channel {message.channel}; see send.channels in params.yaml")
            channel.deliver(key, message)
        except NotNow as error:
            outbox.retry(key, clock.now(), str(error))
            return False
        except Refused as error:
            outbox.fail(key, str(error))
            return False
        outbox.confirm(key, clock.now())
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        while True:
            outbox.take_back(clock.now(), known_again)
            leased = outbox.lease(owner, clock.now(), AT_ONCE * 4, LEASE)
            if leased:
                sent += sum(pool.map(one, leased))
                watch(sent)
                continue
            due = outbox.next_due()
            if due is None:
                return None
            ahead = due - clock.now()
            if patience is not None and ahead > patience:
                return due
            clock.wait(max(ahead, 0.05))
