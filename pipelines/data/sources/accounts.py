"""The simulated shop's people as its platforms know them: by accounts, by what browsers and apps keep, or not at all.

In: the shop's events and users, by person. Out: the same by account (`user_id`) and by what a device keeps (`visitor_id`), with what ids may be known again by; and the truth: whose each account and each event is.

A person has accounts on one platform or more, a telephone, and shares a computer, perhaps a tablet, and a network with a household; offices and mobile networks are shared by strangers. Of all visits about two in five
are of nobody who signed in. An account knows a mail address or a telephone number, or neither; a few people give their partner's.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import polars as pl

PLATFORMS = ("web", "app", "mini-program", "counter", "email")
WEB, APP, MINI, COUNTER, EMAIL = range(5)
HAS = np.array([0.4, 0.4, 0.3, 0.35, 0.5])  # the chance of an account on each, beside the one at home
KNOWS_MAIL = np.array([0.85, 0.5, 0.15, 0.35, 1.0])  # that the account there knows an address
KNOWS_TELEPHONE = np.array([0.35, 0.85, 0.7, 0.65, 0.1])
PARTNERS = 0.003  # share of accounts that were given the address or the number of somebody else at home
HOUSEHOLDS = np.array([0.55, 0.25, 0.12, 0.08])  # of one to four
OFFICE = 60  # people behind one address
AT_HOME, AT_OFFICE = 0.6, 0.2  # share of visits; the rest by mobile networks
STRANGE = 0.1  # share of visits to a platform where the person has no account
UNSIGNED = 0.38  # share of visits to web, app and mini-program that sign in nowhere, beside those
TELLS = 0.7  # share of visits of who signed in that say on which device
KEPT_DAYS = 45.0  # for which a browser keeps an id
GUESTS = 0.7  # share of purchases of nobody for which an address or a number is left
AT_COUNTER = 0.3  # share of what is sent back that is brought to the counter
MAY = 0.97  # share of people who consent to be known again
OF_CHANNEL = {"app_push": APP, "email": EMAIL, "banner": WEB, "mini_program": MINI}
DAY = 86_400_000_000  # microseconds


class _People(NamedTuple):
    home: np.ndarray  # (N,) platform
    household: np.ndarray  # (N,)
    shared: np.ndarray  # (N,) bool: is there somebody else?
    has: np.ndarray  # (N, 5) bool: accounts
    ids: np.ndarray  # (N, 5) text
    mail: np.ndarray  # (N, 5) text, "" where it is not known
    telephone: np.ndarray


def known(events: pl.DataFrame, users: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame, dict]:
    """Events and users as platforms know them, and the truth: people (user_id, person), visits (event_id, person)."""
    people = _people(users, rng)
    number = {user: i for i, user in enumerate(users["user_id"])}
    names = events["user_id"].cast(pl.String)
    person = names.replace_strict(list(number), list(number.values()), return_dtype=pl.Int64).to_numpy()
    visit = pl.select(pl.struct(names, events["session_id"].fill_null(pl.Series(events["event_id"]))).rank("dense")).to_series()
    visit = visit.to_numpy().astype(int) - 1
    at = events["timestamp"].to_physical().to_numpy()
    first = np.zeros(visit.max() + 1, int)
    first[visit[::-1]] = np.arange(len(visit))[::-1]
    who, when = person[first], at[first]
    place, unsigned, device, network = _visits(who, when, people, rng)
    here, signed, kind = place[visit], ~unsigned[visit], events["event"].cast(pl.String).to_numpy()
    channel = events["channel"].cast(pl.String).to_numpy() if "channel" in events.columns else np.full(len(events), None)
    told = np.isin(kind, ("impression", "holdout")) & (channel != None)  # noqa: E711
    for name, platform in OF_CHANNEL.items():
        of = told & (channel == name)
        here[of] = np.where(people.has[person[of], platform], platform, people.home[person[of]])
    rest = told & ~np.isin(channel, list(OF_CHANNEL))
    here[rest] = people.home[person[rest]]
    signed |= told
    back = (kind == "return") & (rng.random(len(kind)) < AT_COUNTER) & people.has[person, COUNTER]
    here[back] = COUNTER
    signed |= back
    bought = np.isin(kind, ("purchase", "return"))
    moving = np.isin(here, (WEB, APP, MINI)) & ~told & ~back
    tells = moving & (~signed | (rng.random(visit.max() + 1) < TELLS)[visit])
    guest = rng.random(visit.max() + 1)
    left = (kind == "purchase") & ~signed
    events = events.with_columns(
        user_id=_where(signed, people.ids[person, here]),
        visitor_id=_where(tells, _hashes("cookie", device[visit], here)),
        platform=pl.Series(np.array(PLATFORMS)[here].tolist()),
        order_id=_where(bought, _hashes("order", visit)),
        email_hash=_where(left & (guest[visit] < GUESTS / 2), _hashes("mail", person)),
        phone_hash=_where(left & (guest[visit] >= GUESTS / 2) & (guest[visit] < GUESTS), _hashes("telephone", person)),
        device_hash=_where(moving & (rng.random(visit.max() + 1) < 0.6)[visit], _hashes("device", device[visit] // 64)),
        address_hash=_where(moving, _hashes("network", network[visit])),
        request_id=pl.format("q{}", pl.col("request_id").rank("dense")) if "request_id" in events.columns else None,
    )
    truth = {
        "people": pl.DataFrame({"user_id": people.ids[people.has].tolist(), "person": users["user_id"].gather(np.nonzero(people.has)[0])}),
        "visits": pl.DataFrame({"event_id": events["event_id"], "person": names}),
    }  # fmt: skip
    return events, _accounts(users, people, rng), truth


def _people(users: pl.DataFrame, rng: np.random.Generator) -> _People:
    count = len(users)
    home = np.array([PLATFORMS.index(p) for p in users["home_platform"]])
    size = 1 + rng.choice(4, count, p=HOUSEHOLDS)
    household = np.repeat(np.arange(count), size)[:count]
    shared = np.bincount(household)[household] > 1
    has = rng.random((count, 5)) < HAS
    has[np.arange(count), home] = True
    prefix = np.array(list("wamce"))
    ids = np.stack([np.char.add(p, (10_000 + rng.permutation(count)).astype(str)) for p in prefix], 1)
    partner = np.where(shared & (np.roll(household, -1) == household), np.roll(np.arange(count), -1), np.arange(count))
    given = np.where(rng.random((count, 5)) < PARTNERS, partner[:, None], np.arange(count)[:, None])
    mail = np.where(has & (rng.random((count, 5)) < KNOWS_MAIL), _hashes("mail", given), "")
    telephone = np.where(has & (rng.random((count, 5)) < KNOWS_TELEPHONE), _hashes("telephone", given), "")
    return _People(home, household, shared, has, ids, mail, telephone)


def _visits(
    who: np.ndarray, when: np.ndarray, people: _People, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each visit the platform, whether nobody signs in, the device with what it keeps (64 a device), and the network: (V,) each."""
    count = len(who)
    weight = people.has[who] * np.array([1.0, 1.0, 1.0, 0.4, 0.0])
    weight[np.arange(count), people.home[who]] += 1.5
    strange = rng.random(count) < STRANGE
    weight[strange] = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    total = weight.cumsum(1)
    place = (total < rng.random((count, 1)) * total[:, -1:]).sum(1)
    unsigned = ~people.has[who, place] | (rng.random(count) < UNSIGNED) & (place != COUNTER)
    household, draw = people.household[who], rng.random(count)
    telephone, computer, tablet = (kind * 1_000_000 + owner for kind, owner in ((1, who), (2, household), (3, household)))
    device = np.where((place == WEB) & (draw < 0.5), computer, telephone)
    device = np.where(people.shared[who] & (draw > 0.93), tablet, device)
    age = (when / DAY / KEPT_DAYS + (device * 0.618) % 1).astype(int) % 64
    network, draw = 1_000_000 + household, rng.random(count)
    network = np.where(draw > AT_HOME, 2_000_000 + rng.permutation(len(people.home))[who] // OFFICE, network)
    network = np.where(draw > AT_HOME + AT_OFFICE, 10_000_000 + rng.integers(20_000, size=count), network)
    return place, unsigned, device * 64 + np.where(place == APP, 0, age), network


def _accounts(users: pl.DataFrame, people: _People, rng: np.random.Generator) -> pl.DataFrame:
    """The users of all platforms, a row an account."""
    person, place = np.nonzero(people.has)
    may = rng.random(len(users)) < MAY
    mail, telephone = people.mail[person, place], people.telephone[person, place]
    ways = [
        " ".join(c for c in channels if OF_CHANNEL.get(c) == p or (c == "sms" and t) or (c == "email" and m))
        for channels, p, m, t in zip(
            users["channels"].str.split(" ").gather(person).to_list(), place, mail, telephone, strict=True
        )
    ]
    table = users.drop("channels")[person].with_columns(
        user_id=pl.Series(people.ids[person, place].tolist()),
        home_platform=pl.Series(np.array(PLATFORMS)[place].tolist()),
        age_band=pl.when(pl.Series(rng.random(len(person)) < 0.7)).then("age_band"),
        channels=pl.Series(ways),
        email_hash=_where(mail != "", mail),
        phone_hash=_where(telephone != "", telephone),
        may_link=pl.Series(may[person]),
    )
    return table.sort("user_id")


def _hashes(kind: str, *numbers: np.ndarray) -> np.ndarray:
    """Hashes of numbers, as texts."""
    shape = numbers[0].shape
    rows, inverse = np.unique(np.stack([n.ravel() for n in numbers], 1), axis=0, return_inverse=True)
    told = np.array([hashlib.sha256(f"{kind} {row.tolist()}".encode()).hexdigest()[:32] for row in rows])
    return told[inverse.ravel()].reshape(shape)


def _where(rows: np.ndarray, texts: np.ndarray) -> pl.Series:
    """Texts where rows are true, else null."""
    return pl.select(pl.when(pl.Series(rows)).then(pl.Series(texts.tolist(), dtype=pl.String))).to_series()
