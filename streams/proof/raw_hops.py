"""The baseline of `bench pipeline`: the same hops and the same transactions, as bare aiokafka loops.

    python -m ruvllm.streams.proof.raw_hops SERVERS PREFIX PARTITIONS

One consumer and one producer a hop, no decoding, no state, no group; the second and the last hop
write as the desk does: one transaction with its outputs and its state records, by a producer for
each partition. It prints a line when a hop listens, and runs until it is told to stop.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer import sender as aiokafka_sender

HOPS = 7
ADMIT, RESPOND = 2, 6
"""Which hop's output is written in a transaction, as by the desk."""
RECORDS = {ADMIT: 2, RESPOND: 4}
"""How many records such a transaction holds, its output included."""

aiokafka_sender.BACKOFF_OVERRIDE = 0.002


def hop_topic(prefix: str, hop: int) -> str:
    return f"{prefix}.raw.hop{hop}.v1"


def side_topic(prefix: str) -> str:
    """Where the further records of a transaction go."""
    return f"{prefix}.raw.side.v1"


async def relay(servers: str, prefix: str, hop: int, partitions: int) -> None:
    """Hand every record of hop - 1 on to this hop, on its partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, group_id=None, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    places = [TopicPartition(hop_topic(prefix, hop - 1), p) for p in range(partitions)]
    consumer.assign(places)
    await consumer.seek_to_end(*places)
    transactional = hop in RECORDS
    producers = [
        AIOKafkaProducer(
            bootstrap_servers=servers,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            transactional_id=f"{prefix}-raw-{hop}-{p}" if transactional else None,
        )
        for p in range(partitions if transactional else 1)
    ]
    await asyncio.gather(*(p.start() for p in producers))
    sys.stdout.write(f"listening {hop}\n")
    sys.stdout.flush()
    target = hop_topic(prefix, hop)
    async for message in consumer:
        if not transactional:
            await producers[0].send_and_wait(target, message.value, key=message.key, partition=message.partition)
            continue
        producer = producers[message.partition]
        await producer.begin_transaction()
        await producer.send(target, message.value, key=message.key, partition=message.partition)
        for _ in range(RECORDS[hop] - 1):
            await producer.send(side_topic(prefix), message.value, key=message.key, partition=message.partition)
        await producer.commit_transaction()


async def main(servers: str, prefix: str, partitions: int) -> None:
    logging.disable(logging.ERROR)  # new topics have no leader for a moment
    await asyncio.gather(*(relay(servers, prefix, hop, partitions) for hop in range(1, HOPS)))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))  # as the workers
