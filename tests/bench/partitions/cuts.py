"""The cuts of the table: who cannot send to whom. `h1` has the primary and a supervisor, `h2` and `h3` a replica and a supervisor each, `c1` clients."""

EVERYBODY = ("h1", "h2", "h3", "c1")


def both(a, b):
    return [(a, b), (b, a)]


def away(host):
    """One host from all others, both ways."""
    return [pair for other in EVERYBODY if other != host for pair in both(host, other)]


class Cut:
    """`pairs`: (from, to) that vanish. `switches`: whether the primary must change (`None`: either is right)."""

    def __init__(self, name, title, pairs, switches):
        self.name, self.title, self.pairs, self.switches = name, title, pairs, switches


ALL = [
    Cut("primary", "primary's host cut off from everybody", away("h1"), True),
    Cut("primary-pair", "primary's host cut off from both replicas' hosts, clients reach all", both("h1", "h2") + both("h1", "h3"), True),
    Cut("primary-clients", "primary's host cut off from the clients only", both("h1", "c1"), False),
    Cut("primary-replica", "primary's host cut off from one replica's host", both("h1", "h2"), False),
    Cut("replica", "one replica's host cut off from everybody", away("h2"), False),
    Cut("replica-3", "the other replica's host cut off from everybody", away("h3"), False),
    Cut("replicas", "the two replicas' hosts cut off from each other", both("h2", "h3"), False),
    Cut("all", "every host alone", away("h1") + both("h2", "h3") + both("h2", "c1") + both("h3", "c1"), False),
    Cut("clients", "clients cut off from everybody", away("c1"), False),
    Cut("clients-replicas", "clients cut off from both replicas' hosts", both("c1", "h2") + both("c1", "h3"), False),
    Cut("primary-mute", "one way: nothing the primary's host sends arrives", [("h1", other) for other in ("h2", "h3", "c1")], True),
    Cut("primary-deaf", "one way: nothing arrives at the primary's host", [(other, "h1") for other in ("h2", "h3", "c1")], None),
    Cut("primary-mute-2", "one way: nothing from the primary's host to one replica's host", [("h1", "h2")], False),
    Cut("primary-deaf-2", "one way: nothing from one replica's host to the primary's", [("h2", "h1")], False),
    Cut("replica-mute", "one way: nothing a replica's host sends arrives", [("h2", other) for other in ("h1", "h3", "c1")], False),
    Cut("replica-deaf", "one way: nothing arrives at a replica's host", [(other, "h2") for other in ("h1", "h3", "c1")], False),
]
