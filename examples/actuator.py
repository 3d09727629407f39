"""An actuator of your own: one process an instance, started, stopped and acknowledged. Run it, kill it, run it again: it picks up.

HETEROSCALE_KAFKA=127.0.0.1:9092 python examples/actuator.py
"""

import asyncio
import tempfile

from heteroscale.actuation import orders
from heteroscale.actuation.orders import Order
from heteroscale.actuation.subscriber import Interest, PlacementSubscriber
from heteroscale.bus import connect
from heteroscale.runtime import settings

START = 'kill -0 "$(cat "$0")" 2>/dev/null || { nohup sleep infinity >/dev/null 2>&1 & echo $! >"$0"; }'  # your engine, on the task's nodes
STOP = 'kill "$(cat "$0")" 2>/dev/null; rm -f "$0"'


async def main() -> None:
    """Follow placements until interrupted. Engines outlive this process: what runs is known by files of process ids."""
    where = settings.load(settings.BusSettings)  # HETEROSCALE_KAFKA, HETEROSCALE_PREFIX, ...
    log = await connect.open_log(where)
    async with PlacementSubscriber(log, where.prefix, Interest(actuator="example")) as subscriber:
        async for assignment in subscriber:
            for task in orders.tasks(assignment.value):
                pid_file = f"{tempfile.gettempdir()}/{where.prefix}-{task.instance.id}.pid"
                if task.order is Order.START:
                    await (await asyncio.create_subprocess_exec("sh", "-c", START, pid_file)).wait()
                    await subscriber.acknowledge.ready(assignment.value, task.instance.id)
                elif task.order is Order.STOP:
                    await (await asyncio.create_subprocess_exec("sh", "-c", STOP, pid_file)).wait()
                    await subscriber.acknowledge.stopped(assignment.value, task.instance.id)


if __name__ == "__main__":
    asyncio.run(main())
