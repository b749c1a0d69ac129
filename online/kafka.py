"""Events from a topic of Kafka's into the log and the state: exactly once, whatever is killed, without the broker's help.

    python -m online.kafka FOLDER --brokers HOST:PORT --topic NAME [--schema FILE] [--state URL] [--shop NAME] [--lateness SECONDS] [--settings FILE]

In: messages, JSON objects or, with --schema, Avro (a message that begins with a schema registry's number is read past it), with the columns of an event. Out: the log in FOLDER, as of /events. A message that
cannot be read or is no event stands in the log with the reason. The log says how far each partition was read: neither the offsets of a consumer group nor transactions are relied on.
"""

import argparse
import fcntl
import io
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from online.events import line_of, unreadable
from online.intake import Intake, add_arguments
from online.log import EventLog, goes_on_at
from privacy.people import of_environment
from privacy.vault import VaultError

AT_ONCE, WAIT = 1000, 0.1  # messages that share a write, and seconds that are waited for so many
LOOK = 30.0  # seconds between two looks for new partitions
REGISTERED = 5  # bytes before a message of a schema registry: 0 and the schema's number


def rows_of(messages: list[Message], decode: Callable[[bytes], object], lateness: float) -> list[dict]:
    """A line of the log for each message."""
    lines = []
    for message in messages:
        value, now = message.value() or b"", time.time()
        try:
            line = line_of(decode(value), now, lateness)
        except Exception as error:  # whatever a message holds, the next is read
            line = unreadable(value.decode(errors="replace"), f"it cannot be read: {error}", now)
        lines.append(line | {"offset": message.offset()})
    return lines


def avro(schema: Path) -> Callable[[bytes], object]:
    """Reads messages by an Avro schema."""
    import fastavro

    parsed = fastavro.parse_schema(json.loads(schema.read_text(encoding="utf-8")))

    def decode(value: bytes) -> object:
        row = fastavro.schemaless_reader(io.BytesIO(value[REGISTERED:] if value[:1] == b"\0" else value), parsed)
        return {name: one for name, one in row.items() if one is not None}

    return decode


class Reader:
    """Reads a topic from where the log says that it was read to.

    Args:
        consumer: without a subscription. decode: a message's value to a row. intake: where they go.

    Raises:
        KafkaException: the topic is not there, or was made anew; or the broker refuses. A broker that cannot be reached is waited for.
        BlockingIOError: another process reads it into this folder.
    """

    def __init__(self, consumer: Consumer, topic: str, decode: Callable[[bytes], object], intake: Intake):
        self._consumer, self._topic, self._decode = consumer, topic, decode
        self._name = f"kafka-{topic.replace('.', '_')}"
        self._intake, self._log = intake, intake.folder / "log"
        self._lock = (self._log / f".{self._name}.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._books: dict[int, EventLog] = {}
        self._looked = 0.0

    def read(self) -> int:
        """Reads what there is, or waits for it a moment; how many messages."""
        if time.monotonic() - self._looked > LOOK:
            self._look()
        messages = self._consumer.consume(AT_ONCE, WAIT)
        for message in messages:
            if message.error() and not message.error().retriable():
                raise KafkaException(message.error())
        count = 0
        for partition, book in self._books.items():
            mine = [m for m in messages if not m.error() and m.partition() == partition]
            if mine:
                self._intake.take(rows_of(mine, self._decode, self._intake.lateness), book)
                count += len(mine)
        return count

    def close(self) -> None:
        for book in self._books.values():
            book.close()
        self._intake.close()
        self._consumer.close()

    def _look(self) -> None:
        """Takes up the partitions that are not read yet."""
        self._looked = time.monotonic()
        found = self._consumer.list_topics(self._topic, timeout=30).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        for partition in sorted(found.partitions.keys() - self._books.keys()):
            first = goes_on_at(self._log, self._name, str(partition))
            if first:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=30)
                if end < first:
                    told = f"partition {partition} ends at {end}, but was read to {first}: the topic was made anew; give it another name"
                    raise KafkaException(KafkaError(KafkaError.OFFSET_OUT_OF_RANGE, told))
            self._books[partition] = EventLog(self._log, self._name, str(partition), first)
        self._consumer.assign([TopicPartition(self._topic, p, book.next) for p, book in self._books.items()])


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(cli)
    cli.add_argument("--brokers", required=True, metavar="HOST:PORT,...")
    cli.add_argument("--topic", required=True)
    cli.add_argument("--schema", type=Path, help="of Avro messages; without one they are JSON")
    cli.add_argument(
        "--settings", type=Path, help="a JSON file of librdkafka's settings, such as security.protocol and passwords"
    )
    chosen = cli.parse_args()
    stop: list[int] = []
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda number, _: stop.append(number))
    own = json.loads(chosen.settings.read_text(encoding="utf-8")) if chosen.settings else {}
    settings = own | {
        "bootstrap.servers": chosen.brokers,
        "group.id": "pushcart",  # librdkafka asks for one; no offset is kept there
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
    }
    decode, read = avro(chosen.schema) if chosen.schema else json.loads, 0
    try:
        intake = Intake(chosen.folder, chosen.state, chosen.shop, chosen.lateness, of_environment())
        reader = Reader(Consumer(settings), chosen.topic, decode, intake)
        while not stop:
            read += reader.read()
        reader.close()
    except KafkaException as error:
        sys.exit(f"error: topic {chosen.topic} at {chosen.brokers}: {error.args[0].str()}")
    except VaultError as error:
        sys.exit(f"error: {error}")
    except BlockingIOError:
        sys.exit(f"error: another process reads topic {chosen.topic} into {chosen.folder}")
    print(f"read {read} messages")


if __name__ == "__main__":
    main()
