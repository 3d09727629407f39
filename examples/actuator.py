"""An actuator of your own: one process an instance, started, stopped and acknowledged. Run it, kill it, run it again: it picks up.

HETEROSCALE_KAFKA=127.0.0.1:9092 python examples/actuator.py
"""

import asyncio

from heteroscale.actuation import orders
from heteroscale.actuation.orders import Order
from heteroscale.actuation.subscriber import Interest, PlacementSubscriber
from heteroscale.bus import connect
from heteroscale.runtime import settings


async def main() -> None:
    """Follow placements until interrupted."""
    where = settings.load(settings.BusSettings)  # HETEROSCALE_KAFKA, HETEROSCALE_PREFIX, ...
    log = await connect.open_log(where)
    engines: dict[str, asyncio.subprocess.Process] = {}
    async with PlacementSubscriber(log, where.prefix, Interest(actuator="example")) as subscriber:
        async for assignment in subscriber:
            for task in orders.tasks(assignment.value):
                name = task.instance.id
                if task.order is Order.START and name not in engines:
                    engines[name] = await asyncio.create_subprocess_exec("sleep", "infinity")  # your engine, on task.instance.nodes
                    await subscriber.acknowledge.ready(assignment.value, name)
                elif task.order is Order.STOP:
                    engine = engines.pop(name, None)
                    if engine is not None:
                        engine.terminate()
                        await engine.wait()
                    await subscriber.acknowledge.stopped(assignment.value, name)


if __name__ == "__main__":
    asyncio.run(main())
