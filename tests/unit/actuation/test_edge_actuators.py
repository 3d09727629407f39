"""The file actuator, the webhook actuator, the registrar and the desks they work at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from heteroscale.actuation import app, desired, registrar, signed_http
from heteroscale.actuation.desks import Delayed, Desks
from heteroscale.actuation.file import FileActuator
from heteroscale.actuation.registrar import FileRegistrar, HttpRegistrar
from heteroscale.actuation.settings import ActuatorKind, ActuatorSettings, Follow
from heteroscale.actuation.signed_http import Recipient
from heteroscale.actuation.subscriber import Acknowledger, Assignment
from heteroscale.actuation.webhook import WebhookActuator
from heteroscale.bus import catalogue, scan
from heteroscale.bus.log import Log
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Broken, Rejected, Retryable
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime.clock import SYSTEM, ManualClock
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.metrics import Metrics
from support import builders
from support.receiver import Receiver

AtEnd = list[Callable[[], Awaitable[None]]]
PREFIX = "memory"
TOPICS = (Topic.PLACEMENTS, Topic.COMMANDS, Topic.ACTUATIONS, Topic.DEAD_LETTERS)


async def said(log: Log) -> list[tuple[str, str]]:
    """Acknowledgements so far."""
    places = await scan.partitions_of(log, [topic_name(PREFIX, Topic.ACTUATIONS)])
    found = [codec.decode(Actuation, record.value or b"") async for batch in scan.to_end(log, places) for record in batch]
    return [(one.instance, one.kind.value) for one in found]


def names_in(folder: Path) -> list[str]:
    """Files there are."""
    return sorted(path.name for path in folder.iterdir())


def acknowledger(log: Log) -> Acknowledger:
    """One that writes."""
    return Acknowledger(log, PREFIX, "test")


def assignment(*instances: tuple[str, InstanceState], seq: int = 1) -> Assignment[Placement]:
    """An assignment of prefill instances."""
    return Assignment(builders.placement("chat", *(builders.instance(name, state=state) for name, state in instances), seq=seq), None)


async def test_desired_state_is_a_file_and_answers_come_back(memory_log: Log, tmp_path: Path) -> None:
    """Written when it changes and not otherwise; answers become acknowledgements and go; what cannot be used is set aside."""
    await catalogue.create(memory_log, PREFIX, topics=TOPICS)
    actuator = FileActuator(acknowledger(memory_log), tmp_path)
    wanted = assignment(("a", InstanceState.RESERVED), ("b", InstanceState.STOPPING))
    await actuator.place(wanted)
    path = tmp_path / "chat.json"
    found = orjson.loads(path.read_bytes())
    assert {"prefill": 1} == found["replicas"]
    assert [("a", "start", {"n-a": 8}), ("b", "stop", {"n-b": 8})] == [
        (one["id"], one["order"], one["nodes"]) for one in found["instances"]
    ]
    before = path.stat()
    answers = tmp_path / "answers" / "chat"
    answers.mkdir(parents=True)
    (answers / "1.json").write_text('{"instance": "a", "kind": "ready", "detail": "took 3 s"}')
    (answers / "2.json").write_text('{"instance": "nobody", "kind": "ready"}')
    (answers / "3.json").write_text("nonsense")
    (answers / ".4.json").write_text("half")
    await actuator.place(assignment(("a", InstanceState.RESERVED), ("b", InstanceState.STOPPING), seq=2))
    assert (before.st_mtime_ns, before.st_ino) == (path.stat().st_mtime_ns, path.stat().st_ino), "nothing changed for an actuator"
    assert [("a", "ready")] == await said(memory_log)
    assert ["2.json", "3.json"] == sorted(one.name for one in (answers / "refused").iterdir())
    assert [".4.json", "refused"] == sorted(one.name for one in answers.iterdir())


async def test_a_file_is_replaced_in_one_step(memory_log: Log, tmp_path: Path) -> None:
    """A reader that looks all the time sees whole documents only; nothing is left lying about; names are quoted."""
    actuator = FileActuator(acknowledger(memory_log), tmp_path)
    done = asyncio.Event()

    async def write() -> None:
        for seq in range(60):
            await actuator.place(assignment(*((f"i{n}", InstanceState.READY) for n in range(seq)), seq=seq))
        done.set()

    async def read() -> int:
        looks = 0
        while not done.is_set():
            if (tmp_path / "chat.json").exists():
                assert "replicas" in orjson.loads((tmp_path / "chat.json").read_bytes())
                looks += 1
            await asyncio.sleep(0)
        return looks

    _, looks = await asyncio.gather(write(), read())
    assert looks > 10
    await actuator.scale(Assignment(builders.command("../../etc/passwd"), None))
    assert ["..%2F..%2Fetc%2Fpasswd.json", "chat.json"] == names_in(tmp_path)


async def test_a_directory_that_cannot_be_written_is_waited_for(memory_log: Log, tmp_path: Path) -> None:
    """Retryable, with the path; the same assignment works once it can be."""
    (tmp_path / "state").write_text("a file in the way")
    actuator = FileActuator(acknowledger(memory_log), tmp_path / "state")
    with pytest.raises(Retryable, match="state"):
        await actuator.place(assignment(("a", InstanceState.RESERVED)))
    (tmp_path / "state").unlink()
    await actuator.place(assignment(("a", InstanceState.RESERVED)))
    assert (tmp_path / "state" / "chat.json").exists()


async def test_a_webhook_is_signed_and_keeps_its_key(memory_log: Log, at_end: AtEnd) -> None:
    """The receiver can check who sent it and when, and knows a repetition, also of a restarted actuator, by its key."""
    receiver = Receiver()
    await receiver.start(at_end)
    clock = ManualClock(5_000)
    for _ in range(2):
        actuator = WebhookActuator(acknowledger(memory_log), Recipient(url=receiver.url, secret="s3"), clock)  # noqa: S106
        await actuator.place(assignment(("a", InstanceState.RESERVED), seq=7))
        await actuator.close()
        clock.advance(1_000)
    (first, body), (second, again) = receiver.headers_and_bodies()
    assert first["Idempotency-Key"] == second["Idempotency-Key"] == "chat/1.7"
    assert body == again
    assert signed_http.is_signed("s3", first["Heteroscale-Signature"], body, now_ms=6_000)
    assert not signed_http.is_signed("other", first["Heteroscale-Signature"], body, now_ms=6_000)
    assert not signed_http.is_signed("s3", first["Heteroscale-Signature"], body + b" ", now_ms=6_000)
    assert not signed_http.is_signed("s3", first["Heteroscale-Signature"], body, now_ms=1_000_000)
    assert not signed_http.is_signed("s3", "nonsense", body, now_ms=6_000)


async def test_what_a_webhook_answers_is_sent_on(memory_log: Log, at_end: AtEnd) -> None:
    """Actuations become acknowledgements, `again_s` asks for the same again, an answer that is no JSON is no failure."""
    await catalogue.create(memory_log, PREFIX, topics=TOPICS)
    receiver = Receiver()
    await receiver.start(at_end)
    receiver.answers = [
        web.json_response({"actuations": [{"instance": "a", "kind": "starting"}], "again_s": 2}),
        web.Response(text="<html>thanks</html>"),
    ]
    actuator = WebhookActuator(acknowledger(memory_log), Recipient(url=receiver.url))
    at_end.append(actuator.close)
    assert 2 == await actuator.place(assignment(("a", InstanceState.RESERVED)))
    assert await actuator.place(assignment(("a", InstanceState.RESERVED))) is None
    assert [("a", "starting")] == await said(memory_log)


@pytest.mark.parametrize(
    ("status", "headers", "after_s"), [(500, {}, None), (429, {"Retry-After": "9"}, 9.0), (503, {}, None), (401, {}, 60.0), (302, {}, 60.0)]
)
async def test_a_webhook_that_does_not_take_it_is_asked_again(
    memory_log: Log, at_end: AtEnd, status: int, headers: dict[str, str], after_s: float | None
) -> None:
    """Soon if it may get better, when it says if it says, seldom if it calls the request wrong."""
    receiver = Receiver()
    await receiver.start(at_end)
    receiver.answers = [web.Response(status=status, headers=headers)]
    actuator = WebhookActuator(acknowledger(memory_log), Recipient(url=receiver.url))
    at_end.append(actuator.close)
    with pytest.raises(Retryable) as caught:
        await actuator.place(assignment(("a", InstanceState.RESERVED)))
    assert after_s == (caught.value.after_s if isinstance(caught.value, Delayed) else None)


async def test_an_affirmed_command_is_posted_once(memory_log: Log, at_end: AtEnd) -> None:
    """By revision; what drains still runs and is counted."""
    receiver = Receiver()
    await receiver.start(at_end)
    actuator = WebhookActuator(acknowledger(memory_log), Recipient(url=receiver.url))
    at_end.append(actuator.close)
    for revision, at_ms in ((1, 1), (1, 2), (2, 3)):
        await actuator.scale(Assignment(builders.command(revision=revision, at_ms=at_ms), None))
    assert ["chat/r1", "chat/r2"] == [headers["Idempotency-Key"] for headers, _ in receiver.headers_and_bodies()]
    assert {"decode": 2, "prefill": 1} == orjson.loads(receiver.headers_and_bodies()[0][1])["replicas"]


async def test_a_webhook_that_is_away_is_retryable(memory_log: Log) -> None:
    """Nobody listens there."""
    actuator = WebhookActuator(acknowledger(memory_log), Recipient(url="http://127.0.0.1:9/scale", timeout_ms=500))
    with pytest.raises(Retryable, match=r"127\.0\.0\.1:9"):
        await actuator.place(assignment(("a", InstanceState.RESERVED)))
    await actuator.close()


async def test_the_registrar_lists_who_may_be_routed_to(tmp_path: Path) -> None:
    """Ready and routable only, by role; unchanged verdicts leave the file alone."""
    routes = FileRegistrar(tmp_path, "http://{node}:8000/{role}")
    up = builders.instance("a", state=InstanceState.READY, routable=True)
    held = builders.instance("b", state=InstanceState.READY)
    going = builders.instance("c", state=InstanceState.DRAINING, routable=True)
    await routes.register(builders.placement("chat", up, held, going, seq=1))
    path = tmp_path / "chat.json"
    found = orjson.loads(path.read_bytes())
    assert {"prefill": [("a", "http://n-a:8000/prefill")]} == {
        role: [(one["instance"], one["address"]) for one in listed] for role, listed in found["roles"].items()
    }
    before = path.stat().st_mtime_ns
    await routes.register(builders.placement("chat", up, held, seq=2))
    assert before == path.stat().st_mtime_ns
    await routes.register(builders.placement("chat", held, seq=3))
    assert {} == orjson.loads(path.read_bytes())["roles"]


async def test_routes_are_put_to_a_registry(at_end: AtEnd) -> None:
    """PUT URL/SERVICE, signed, when the verdict changes and once after a start; while the registry is away the reason is Retryable."""
    receiver = Receiver()
    await receiver.start(at_end)
    recipient = Recipient(url=receiver.url, secret="s3")  # noqa: S106
    up, held = builders.instance("a", state=InstanceState.READY, routable=True), builders.instance("b", state=InstanceState.READY)
    receiver.answers = [web.Response(status=503)]
    routes = HttpRegistrar(recipient, "http://{node}:8000")
    at_end.append(routes.close)
    with pytest.raises(Retryable, match="503"):
        await routes.register(builders.placement("my chat", up, held, seq=1))
    for seq in (1, 2):
        await routes.register(builders.placement("my chat", up, held, seq=seq))
    await routes.register(builders.placement("my chat", held, seq=3))
    assert [("PUT", "/scale/my%20chat")] * 3 == [(request.method, request.path) for request in receiver.requests]
    listed = [orjson.loads(body)["roles"] for _, body in receiver.headers_and_bodies()]
    assert [["http://n-a:8000"], ["http://n-a:8000"], []] == [[one["address"] for one in roles.get("prefill", [])] for roles in listed]
    again = HttpRegistrar(recipient, "http://{node}:8000")
    at_end.append(again.close)
    await again.register(builders.placement("my chat", held, seq=3))
    headers, body = receiver.headers_and_bodies()[-1]
    assert 4 == len(receiver.requests)
    assert signed_http.is_signed("s3", headers["Heteroscale-Signature"], body, now_ms=SYSTEM.now_ms())


def test_an_address_that_cannot_be_made_is_refused_at_start() -> None:
    """With the names that there are."""
    with pytest.raises(Rejected, match="instance, node"):
        registrar.checked("http://{host}:8000")
    with pytest.raises(Rejected):
        registrar.checked("http://{node:8000")


async def test_a_desk_does_the_newest_and_tries_again(at_end: AtEnd) -> None:
    """What is overtaken while a try fails is never done; `previous` is what was really carried out; other services do not wait."""
    tries: list[tuple[str, int | None, int | None]] = []
    away = asyncio.Event()

    async def work(given: Assignment[Placement]) -> float | None:
        before = None if given.previous is None else given.previous.seq
        tries.append((given.value.service, given.value.seq, before))
        if given.value.service == "slow" and not away.is_set():
            raise Delayed("not now", 0.01)
        return None

    desks: Desks[Placement] = Desks(work, Metrics())
    at_end.append(desks.close)
    desks.put(builders.placement("slow", seq=1))
    desks.put(builders.placement("fast", seq=1))
    async with asyncio.timeout(5):
        while len(tries) < 4:
            await asyncio.sleep(0.005)
        assert ("fast", 1, None) in tries
        desks.put(builders.placement("slow", seq=2))
        desks.put(builders.placement("slow", seq=3))
        away.set()
        while ("slow", 3, None) not in tries:
            await asyncio.sleep(0.005)
        desks.put(builders.placement("slow", seq=4))
        while ("slow", 4, 3) not in tries:
            await asyncio.sleep(0.005)
    assert ("slow", 2, None) not in tries
    assert 1 == tries.count(("fast", 1, None))


async def test_a_desk_that_breaks_ends_the_service(memory_log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No task dies silently: what is not Retryable comes out of serve."""

    async def broken(_self: FileActuator, _assignment: Assignment[Placement]) -> float | None:
        raise Broken("an invariant")

    monkeypatch.setattr(FileActuator, "place", broken)
    await catalogue.create(memory_log, PREFIX, topics=TOPICS)
    await memory_log.append([builders.placement_entry(PREFIX, builders.placement("chat"))])
    settings = ActuatorSettings(actuator_kind=ActuatorKind.FILE, actuator_directory=str(tmp_path))
    with pytest.raises(Broken, match="an invariant"):
        await asyncio.wait_for(app.serve(Context(log=memory_log, prefix=PREFIX, health=Health()), settings), 5)


async def test_the_process_carries_out_by_its_settings(memory_log: Log, tmp_path: Path) -> None:
    """A file actuator with a registrar: duplicates and reordering on the log end in the newest state, for both."""
    await catalogue.create(memory_log, PREFIX, topics=TOPICS)
    up = builders.instance("a", state=InstanceState.READY, routable=True)
    for seq in (1, 3, 2, 3, 1):
        names = [builders.instance(f"i{n}") for n in range(seq)]
        await memory_log.append([builders.placement_entry(PREFIX, builders.placement("chat", up, *names, seq=seq))])
    settings = ActuatorSettings(
        actuator_kind=ActuatorKind.FILE, actuator_directory=str(tmp_path / "state"), actuator_registrar=str(tmp_path / "routes")
    )
    context = Context(log=memory_log, prefix=PREFIX, health=Health())
    serving = asyncio.create_task(app.serve(context, settings))
    async with asyncio.timeout(10):
        while not (tmp_path / "state" / "chat.json").exists():
            await asyncio.sleep(0.01)
    context.stop.set()
    await asyncio.wait_for(serving, 5)
    assert {"prefill": 4} == orjson.loads((tmp_path / "state" / "chat.json").read_bytes())["replicas"]
    assert ["a"] == [one["instance"] for one in orjson.loads((tmp_path / "routes" / "chat.json").read_bytes())["roles"]["prefill"]]


async def test_placed_services_are_not_scaled_by_commands(memory_log: Log, tmp_path: Path) -> None:
    """Only a command without affinity (`placement: none`) is an actuator's; another is placement's."""
    await catalogue.create(memory_log, PREFIX, topics=TOPICS)
    free = codec.convert(Command, codec.to_document(builders.command("free")) | {"affinity": None})
    for command in (builders.command("placed"), free):
        await memory_log.append([builders.entry(PREFIX, Topic.COMMANDS, command.fleet, command)])
    settings = ActuatorSettings(actuator_kind=ActuatorKind.FILE, actuator_directory=str(tmp_path), actuator_follow=Follow.COMMANDS)
    context = Context(log=memory_log, prefix=PREFIX, health=Health())
    serving = asyncio.create_task(app.serve(context, settings))
    async with asyncio.timeout(10):
        while not (tmp_path / "free.json").exists():
            await asyncio.sleep(0.01)
    context.stop.set()
    await asyncio.wait_for(serving, 5)
    assert ["free.json"] == names_in(tmp_path)


@pytest.mark.parametrize("kind", [ActuatorKind.FILE, ActuatorKind.WEBHOOK, ActuatorKind.KUBERNETES])
async def test_a_kind_without_its_settings_says_what_it_needs(memory_log: Log, kind: ActuatorKind) -> None:
    """The variable's name is in the message."""
    with pytest.raises(Rejected, match="HETEROSCALE_ACTUATOR_"):
        await app.serve(Context(log=memory_log, prefix=PREFIX, health=Health()), ActuatorSettings(actuator_kind=kind))


async def test_a_registrar_without_placements_is_refused(memory_log: Log) -> None:
    """Commands say nothing of who may be sent requests: a router would wait for a list that never comes."""
    settings = ActuatorSettings(actuator_follow=Follow.COMMANDS, actuator_registrar="/run/routes")
    with pytest.raises(Rejected, match="follow placements"):
        await app.serve(Context(log=memory_log, prefix=PREFIX, health=Health()), settings)


def test_desired_state_has_one_version_a_level() -> None:
    """By (gen, seq) for placements, by revision for commands."""
    assert "1.5" == desired.of(builders.placement("chat", seq=5)).version
    assert "r3" == desired.of(builders.command(revision=3)).version
