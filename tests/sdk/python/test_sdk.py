"""The official Centrifuge client for Python, unmodified, against a whole cluster: in both forms of the protocol."""

import asyncio
import json
import unittest

import centrifuge

from cluster import Cluster

SOON_SECONDS = 30
cluster: Cluster


def setUpModule() -> None:
    global cluster
    cluster = Cluster()


def tearDownModule() -> None:
    cluster.stop()


class Room(centrifuge.SubscriptionEventHandler):
    """What one client sees of a channel."""

    def __init__(self) -> None:
        self.publications: list = []
        self.joined: list[str] = []
        self.recovered: list[bool] = []

    async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
        self.publications.append(ctx.pub)

    async def on_join(self, ctx: centrifuge.JoinContext) -> None:
        self.joined.append(ctx.info.user)

    async def on_subscribed(self, ctx: centrifuge.SubscribedContext) -> None:
        if ctx.was_recovering:
            self.recovered.append(ctx.recovered)


class Disconnects(centrifuge.ClientEventHandler):
    """How often a client lost its connection, and the code it ended with."""

    def __init__(self) -> None:
        self.connecting = 0
        self.ended: list[int] = []

    async def on_connecting(self, ctx: centrifuge.ConnectingContext) -> None:
        self.connecting += 1

    async def on_disconnected(self, ctx: centrifuge.DisconnectedContext) -> None:
        self.ended.append(ctx.code)


async def until(what: str, condition) -> None:
    """Waits for a condition with a deadline."""
    try:
        async with asyncio.timeout(SOON_SECONDS):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {SOON_SECONDS} s") from None


class Sdk:
    """The tests; the two classes below run them in one form of the protocol each."""

    protobuf: bool

    async def asyncSetUp(self) -> None:
        self.clients: list[centrifuge.Client] = []

    async def asyncTearDown(self) -> None:
        for client in self.clients:
            await client.disconnect()

    def encode(self, data):
        """Protobuf carries bytes, JSON carries JSON."""
        return json.dumps(data).encode() if self.protobuf else data

    def decode(self, data):
        return json.loads(data) if self.protobuf else data

    def channel(self, name: str) -> str:
        return f"python-{name}-{'protobuf' if self.protobuf else 'json'}"

    async def connect(self, user: str, **options) -> centrifuge.Client:
        async def get_token() -> str:
            return cluster.token(user)

        client = centrifuge.Client(
            cluster.chat_url, **{"get_token": get_token, "use_protobuf": self.protobuf, "proxy": None, **options}
        )
        self.clients.append(client)
        await client.connect()
        await client.ready(SOON_SECONDS)
        return client

    async def join(self, client: centrifuge.Client, channel: str) -> tuple[centrifuge.Subscription, Room]:
        room = Room()
        subscription = client.new_subscription(channel, events=room, recoverable=True, join_leave=True)
        await subscription.subscribe()
        await subscription.ready(SOON_SECONDS)
        return subscription, room

    async def test_two_users_talk_see_each_other_and_read_the_history(self) -> None:
        ann, bob = await self.connect("ann"), await self.connect("bob")
        here, room = await self.join(ann, self.channel("talk"))
        there, other = await self.join(bob, self.channel("talk"))
        await until("the join of the other", lambda: "bob" in room.joined)

        await here.publish(self.encode({"text": "hello ✓"}))
        await until("the message", lambda: other.publications)
        message = other.publications[0]
        self.assertEqual(self.decode(message.data), {"text": "hello ✓"})
        self.assertEqual(message.info.user, "ann")

        presence = await there.presence()
        self.assertEqual(sorted(info.user for info in presence.clients.values()), ["ann", "bob"])
        stats = await there.presence_stats()
        self.assertEqual((stats.num_clients, stats.num_users), (2, 2))
        history = await there.history(limit=10)
        self.assertEqual([self.decode(item.data) for item in history.publications], [{"text": "hello ✓"}])
        self.assertEqual(history.offset, 1)

        await there.unsubscribe()
        await here.publish(self.encode({"text": "is anybody there?"}))
        await until("the own message", lambda: len(room.publications) == 2)
        self.assertEqual(len(other.publications), 1)

    async def test_clients_of_a_killed_node_come_back_and_recover_what_they_missed(self) -> None:
        channel = self.channel("crash")
        before = cluster.nodes()
        members = [await self.join(await self.connect(user), channel) for user in ("cleo", "dan", "eve", "finn")]
        # Whom the balancer has given the most of them.
        given = [node for session, node in cluster.nodes().items() if session not in before]
        victim = max(given, key=given.count)
        acked: list[int] = []

        async def send(number: int) -> None:
            try:
                await members[number % len(members)][0].publish(self.encode({"id": number}))
                acked.append(number)
            except centrifuge.CentrifugeError:
                pass  # Not acknowledged: it may be there or not.

        for number in range(120):
            if number == 40:
                cluster.kill(victim)
            await send(number)
        await until("the reconnects", lambda: any(room.recovered for _, room in members))
        self.assertGreater(len(acked), 80)
        for _, room in members:
            def once() -> bool:
                ids = [self.decode(item.data)["id"] for item in room.publications]
                return all(ids.count(number) == 1 for number in acked)

            await until("every acknowledged message, once", once)
            self.assertTrue(all(room.recovered), "the node could not say what was missed")

    async def test_a_token_is_renewed_before_it_expires_and_the_connection_stays(self) -> None:
        asked: list[str] = []

        async def get_token() -> str:
            asked.append(cluster.token("gail", lifetime_seconds=5))
            return asked[-1]

        events = Disconnects()
        client = await self.connect("gail", get_token=get_token, events=events)
        await until("three tokens", lambda: len(asked) >= 3)
        self.assertEqual(client.state, centrifuge.ClientState.CONNECTED)
        self.assertEqual((events.connecting, events.ended), (1, []))

    async def test_errors_have_their_codes(self) -> None:
        client = await self.connect("hal")
        with self.assertRaises(centrifuge.ReplyError) as caught:
            await client.publish("no-such-namespace:room", self.encode({}))
        self.assertEqual(caught.exception.code, 102)
        events = Disconnects()
        stranger = centrifuge.Client(
            cluster.chat_url, events=events, token=cluster.token("x") + "x", use_protobuf=self.protobuf, proxy=None
        )
        self.clients.append(stranger)
        await stranger.connect()
        await until("the refusal", lambda: events.ended)
        self.assertEqual(events.ended, [3500])


class Json(Sdk, unittest.IsolatedAsyncioTestCase):
    protobuf = False


class Protobuf(Sdk, unittest.IsolatedAsyncioTestCase):
    protobuf = True


if __name__ == "__main__":
    unittest.main()
