"""The simulated shop: what ships with Pushcart, so that every part can be tried and tested without anyone's data.

In: the catalogue of words and prices (shop.yaml) and source.shop of params.yaml (seed, shoppers, items, days, dirt).
Out: events, items, users as a real shop would log them, dirt included; and, kept apart for evaluation only, the truth:
truth_tastes and truth_goods (what is hidden in shoppers and items), truth_uplift (whom which campaign reached with what, and what it changed),
truth_refills (who will buy what again, and when) and truth_dirt (which event rows are broken, and how). With `identities: many` platforms know people by
different ids or by none (accounts.py): truth_people (whose an account is), truth_visits (whose an event is).

How a shopper behaves: interest in categories drifts from one taste to another over the days; a session starts from a
category of interest and walks, item by item, to a similar item, a complement or afresh, each time taking the one of a few
noticed items whose utility (taste, popularity, price against budget) is best; each item may be favourited, carted, bought. All that
was noticed is logged as impressions, so that what was passed over is known too. What is used up is bought again, by those who keep to it, each
at a pace of their own. Every few days a campaign pushes items to a random half of whom its channel reaches; the other half is logged as held
out (persuasion.py).
The same seed and sizes give the same rows.
"""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import yaml

from pipelines.data.sources import accounts, looks, persuasion
from pipelines.data.tables import EVENT_KINDS, TIMESTAMP

START = np.datetime64("2026-01-01T00:00:00", "us")
DAY = 86_400_000_000  # microseconds
SECOND = 1_000_000
NOTICED = 6  # items a shopper weighs against one another at each step
STEPS = 12  # most items of one session
KINDS = pl.Enum(sorted([*EVENT_KINDS, "hover"]))
CRAWLERS = ("crawler0", "crawler1")
STRAY_ITEM = "sku99999x"  # stands in no catalogue
KEEP, KEEP_ON = 0.6, 0.92  # the chance that who bought what is used up keeps to it, and goes on each time
RETURNED = 0.04  # share of purchases
PACE, JITTER = 0.25, 0.12  # spreads of the logarithms of people's paces, and of each gap
BY_HOUR = np.array([1] * 7 + [3] * 4 + [5] * 3 + [3] * 5 + [8] * 4 + [4])  # traffic: quiet at night, busy after dinner


def ordered_only(settings: dict) -> bool:
    """See the package."""
    return False


def read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]:
    """The shop's tables; `settings` is source.shop of params.yaml."""
    words = yaml.safe_load(data.read_text(encoding="utf-8"))
    knobs = settings["shop"]
    rng = np.random.default_rng(knobs["seed"])
    items, world = _catalogue(words, knobs["items"], knobs["content"], rng)
    users, tastes = _shoppers(words, knobs["shoppers"], rng)
    users, tastes, goods = _hidden(words, users, tastes, items, world, rng.spawn(1)[0])
    world |= {
        "user_ids": users["user_id"].cast(pl.Enum([*users["user_id"], *CRAWLERS])),
        "item_ids": items["item_id"].cast(pl.Enum([*items["item_id"], STRAY_ITEM])),
    }
    visits = _sessions(words, tastes, knobs["days"], rng, rng.spawn(1)[0])
    parts = [_funnel(_walk(visits, tastes, world, knobs["days"], rng), visits, words, world, rng)]
    later = rng.spawn(2)
    again, refills = _refills(parts[0], tastes, goods, world, knobs["days"], later[0])
    parts.append(_returns(parts[0], knobs["days"], later[1]))
    pushed, uplift = _campaigns(words, users, tastes, goods, world, knobs["days"], rng)
    parts += [again, pushed]
    users, events, whose = _without_left(users, uplift), _in_order(parts), {}
    if knobs["identities"] == "many":
        events, users, whose = accounts.known(events, users, np.random.default_rng([knobs["seed"], 1]))
    events, dirt = _dirty(events, knobs["dirt"], rng)
    tables = {
        "events": events.drop("kind"),
        "items": items,
        "users": users,
        "truth_tastes": tastes["table"],
        "truth_goods": goods,
        "truth_uplift": uplift,
        "truth_refills": refills,
        "truth_dirt": dirt,
        **{f"truth_{name}": table for name, table in whose.items()},
    }
    return {name: table.lazy() for name, table in tables.items()}


def _in_order(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """All events in the order of time, numbered; the parts are emptied."""
    events = pl.concat(parts, how="diagonal")
    parts.clear()
    order = events.select(pl.arg_sort_by("timestamp", "user_id", "event", maintain_order=True)).to_series()
    return _ordered(events, order).with_columns(event_id=pl.format("e{}", pl.int_range(1, pl.len() + 1)))


def _ordered(events: pl.DataFrame, order: pl.Series) -> pl.DataFrame:
    """The rows in an order, column by column; the table is emptied, for of ten million events there is no room for two copies."""
    return pl.DataFrame([events.drop_in_place(name).gather(order) for name in events.columns])


def _catalogue(words: dict, count: int, content: str, rng: np.random.Generator) -> tuple[pl.DataFrame, dict]:
    """Items with titles in two languages, and the latent world they live in (arrays over the items)."""
    categories = words["categories"]
    number = {c["name"]: i for i, c in enumerate(categories)}
    category = np.sort(np.arange(count) % len(categories))
    style = rng.normal(size=(count, 6))
    price = np.round(np.exp(np.log([categories[c]["price"] for c in category]) + rng.normal(0, 0.45, count)), 1)
    brand = rng.integers(len(words["brands"]), size=count)
    titles, descriptions = [], []
    for i, c in enumerate(category):
        noun, noun_zh = categories[c]["nouns"][rng.integers(len(categories[c]["nouns"]))]
        adjective, adjective_zh = words["adjectives"][rng.integers(len(words["adjectives"]))]
        colour, colour_zh = words["colours"][rng.integers(len(words["colours"]))]
        latin, chinese = words["brands"][brand[i]].split()
        titles.append(f"{latin} {adjective} {noun}, {colour} / {chinese}{adjective_zh}{noun_zh}（{colour_zh}）")
        descriptions.append(
            f"A{'n' * (adjective[0] in 'AEIOU')} {adjective.lower()} {noun} in {colour} by {latin}. {chinese}出品的{adjective_zh}{noun_zh}，{colour_zh}。"
        )
    complements = [[number[name] for name in c["complements"]] for c in categories]
    [stocked] = rng.spawn(1)  # draws of their own, so that the others stay as they are
    [seen] = stocked.spawn(1)
    shown = {}
    if content != "plain":
        told = looks.described(style, seen)
        texts = [(t.split(" / "), d.split(". "), look) for t, d, look in zip(titles, descriptions, told, strict=True)]
        titles = [" / ".join(_in_languages(title, i, content)) for i, (title, _, _) in enumerate(texts)]
        descriptions = [
            " ".join(_in_languages((f"{english}: {look[0]}.", f"{chinese.removesuffix('。')}：{look[1]}。"), i, content))
            for i, (_, (english, chinese), look) in enumerate(texts)
        ]
        shown = {"image": looks.drawn(style, seen)}
    items = pl.DataFrame(
        {
            "item_id": [f"sku{i + 1:05d}" for i in range(count)],
            "title": titles,
            "description": descriptions,
            **shown,
            "category": [categories[c]["name"] for c in category],
            "brand": [words["brands"][b] for b in brand],
            "price": price,
            "in_stock": rng.random(count) > 0.05,
        }
    )
    items = items.with_columns(
        cost=(pl.col("price") * pl.Series(stocked.uniform(0.4, 0.85, count))).round(1),
        stock=pl.Series(stocked.geometric(0.01, count) + 5).cast(pl.Float64) * pl.col("in_stock"),
    )
    world = {
        "category": category,
        "style": style,
        "price": price,
        "appeal": rng.normal(0, 0.8, count),
        "first": np.searchsorted(category, np.arange(len(categories))),
        "size": np.bincount(category, minlength=len(categories)),
        "complements": complements,
        "cycle": np.array([c.get("cycle", 0.0) for c in categories]),
        "in_stock": items["in_stock"].to_numpy(),
    }
    return items, world


def _in_languages(both: tuple[str, str] | list[str], item: int, content: str) -> list[str]:
    """A text in English and Chinese, or in one of them where items' languages stand apart."""
    return [both[item % 2]] if content == "apart" else list(both)


def _shoppers(words: dict, count: int, rng: np.random.Generator) -> tuple[pl.DataFrame, dict]:
    categories = len(words["categories"])
    early, late = (rng.dirichlet(np.full(categories, 0.12), count) for _ in range(2))
    style = rng.normal(size=(count, 6))
    budget = rng.normal(0, 0.5, count)  # log price against a category's typical one
    sensitivity = rng.gamma(2.0, 0.5, count)
    activity = rng.gamma(2.0, 0.5, count)
    ids = [f"u{i + 1:06d}" for i in range(count)]
    platforms = list(words["platforms"])
    users = pl.DataFrame(
        {
            "user_id": ids,
            "age_band": rng.choice(["18-24", "25-34", "35-44", "45-54", "55+"], count, p=[0.2, 0.35, 0.25, 0.12, 0.08]),
            "city_tier": rng.choice(["1", "2", "3", "4"], count, p=[0.25, 0.3, 0.3, 0.15]),
            "home_platform": rng.choice(platforms, count, p=list(words["platforms"].values())),
        }
    )
    table = pl.DataFrame(
        {"user_id": ids, "early_taste": early, "late_taste": late, "style": style, "budget": budget,
         "price_sensitivity": sensitivity, "activity": activity}
    )  # fmt: skip
    tastes = {"early": early, "late": late, "style": style, "budget": budget,
              "sensitivity": sensitivity, "activity": activity, "platform": users["home_platform"].to_numpy(),
              "table": table}  # fmt: skip
    return users, tastes


def _hidden(
    words: dict, users: pl.DataFrame, tastes: dict, items: pl.DataFrame, world: dict, rng: np.random.Generator
) -> tuple[pl.DataFrame, dict, pl.DataFrame]:
    """Users with where they live and which channels come to them; tastes with what pushes do to them; goods as shoppers feel them."""
    count, zones = len(users), list(words["time_zones"])
    hidden = persuasion.people(count, tastes["platform"], users["city_tier"].to_numpy(), tastes, words["channels"], BY_HOUR, rng)
    zone = rng.choice(len(zones), count, p=list(words["time_zones"].values()))
    users = users.with_columns(time_zone=pl.Series([zones[z] for z in zone]), channels=_reached(hidden["reach"], words))
    start = datetime.fromisoformat(str(START))
    ahead = np.array([int(ZoneInfo(z).utcoffset(start).total_seconds()) for z in zones])[zone]
    price = np.log(world["price"])
    goods = pl.DataFrame(
        {"item_id": items["item_id"], "category": world["category"], "looks": world["style"], "appeal": world["appeal"],
         "dearness": price - price[world["first"][world["category"]]]}
    )  # fmt: skip
    table = tastes["table"].with_columns(pl.Series(name, values) for name, values in hidden.items())
    return users, tastes | hidden | {"table": table, "ahead": ahead}, goods


def _reached(reach: np.ndarray, words: dict) -> pl.Series:
    """The names of the channels that come to each person, separated by spaces. (N, C) bool -> (N,)"""
    names = [c["name"] for c in words["channels"]]
    return pl.Series(
        [" ".join(n for n, comes in zip(names, row, strict=True) if comes) for row in reach.tolist()], dtype=pl.String
    )


def _sessions(words: dict, tastes: dict, days: int, rng: np.random.Generator, habit: np.random.Generator) -> dict:
    """When who comes, on what, with how much patience; half of them at the hours of their day that they keep."""
    visits = 1 + rng.poisson(7 * tastes["activity"] * days / 60)
    shopper = np.repeat(np.arange(len(visits)), visits)
    when = np.sort(rng.random(len(shopper)) * days)
    shopper = rng.permutation(shopper)
    hour = rng.choice(24, len(shopper), p=BY_HOUR / BY_HOUR.sum())
    usual = (tastes["peak"][shopper] + habit.integers(-1, 2, len(shopper))) % 24
    hour = np.where(habit.random(len(shopper)) < 0.5, usual, hour)
    seconds = np.floor(when) * 86400 + hour * 3600 + np.floor(rng.random(len(shopper)) * 3600) - tastes["ahead"][shopper]
    platforms = list(words["platforms"])
    elsewhere = rng.random(len(shopper)) < 0.2
    platform = np.where(elsewhere, rng.choice(platforms, len(shopper)), tastes["platform"][shopper])
    return {
        "shopper": shopper,
        "day": when,
        "start": (seconds * SECOND).astype(np.int64),
        "platform": pl.Series(platform.tolist(), dtype=pl.Enum(platforms)),
        "length": np.minimum(rng.geometric(0.28, len(shopper)), STEPS),
        "searched": rng.random(len(shopper)) < 0.45,
    }


def _walk(visits: dict, tastes: dict, world: dict, days: int, rng: np.random.Generator) -> dict:
    """Which items each session looks at, step by step: arrays (rows,) of session, step and item; noticed (rows, NOTICED), -1 = none."""
    shopper = visits["shopper"]
    drift = np.clip(visits["day"] / days + rng.normal(0, 0.1, len(shopper)), 0, 1)[:, None]
    interest = (1 - drift) * tastes["early"][shopper] + drift * tastes["late"][shopper]
    widest = max(len(c) for c in world["complements"])
    complements = np.array([c + c[:1] * (widest - len(c)) for c in world["complements"]])
    sessions, steps, chosen, shelves = [], [], [], []
    active = np.arange(len(shopper))
    category = _draw(interest, rng)
    item = np.full(len(shopper), -1)
    for step in range(STEPS):
        active = active[visits["length"][active] > step]
        if step:
            mood = rng.random(len(active))
            beside = complements[category[active], rng.integers(widest, size=len(active))]
            afresh = _draw(interest[active], rng)
            category[active] = np.where(mood < 0.5, category[active], np.where(mood < 0.85, beside, afresh))
        c = category[active]
        # Noticing follows popularity (the better of two random places in the shelf, which is ordered by nothing else).
        noticed = world["first"][c][:, None] + np.floor(
            rng.random((len(active), NOTICED)) ** 1.5 * world["size"][c][:, None]
        ).astype(int)
        person = shopper[active]
        last = np.where(item[active] < 0, noticed[:, 0], item[active])
        likes = (world["style"][noticed] * tastes["style"][person][:, None]).sum(-1) * 0.5
        follows = (world["style"][noticed] * world["style"][last][:, None]).sum(-1) * 0.5
        dear = _dear(noticed, person[:, None], tastes, world)
        utility = likes + follows + world["appeal"][noticed] - dear + rng.gumbel(0, 0.6, noticed.shape)
        again = noticed == item[active][:, None]
        utility[again] = -np.inf
        shelves.append(np.where(again, -1, noticed))
        item[active] = noticed[np.arange(len(active)), utility.argmax(1)]
        sessions.append(active)
        steps.append(np.full(len(active), step))
        chosen.append(item[active].copy())
    return {"session": np.concatenate(sessions), "step": np.concatenate(steps), "item": np.concatenate(chosen),
            "noticed": np.concatenate(shelves),
            "wanted": _wanted(np.concatenate(sessions), np.concatenate(chosen), visits, tastes, world)}  # fmt: skip


def _dear(item: np.ndarray, person: np.ndarray, tastes: dict, world: dict) -> np.ndarray:
    """How far a price, against its category's, is from the shopper's budget, to those who care."""
    price = np.log(world["price"])
    above = price[item] - price[world["first"][world["category"][item]]]
    return tastes["sensitivity"][person] * np.abs(above - tastes["budget"][person])


def _wanted(session: np.ndarray, item: np.ndarray, visits: dict, tastes: dict, world: dict) -> np.ndarray:
    """What brings a look to a cart and a cart to a purchase; of money more than of the look."""
    person = visits["shopper"][session]
    liked = (world["style"][item] * tastes["style"][person]).sum(1) * 0.3 + world["appeal"][item] * 0.3
    return liked - _dear(item, person, tastes, world)


def _funnel(walked: dict, visits: dict, words: dict, world: dict, rng: np.random.Generator) -> pl.DataFrame:
    """The events of the walks: a search first, then impressions, and for each chosen item a view and perhaps favourite, cart, purchase."""
    session, item, wanted = walked["session"], walked["item"], walked["wanted"]
    person = visits["shopper"][session]
    at = visits["start"][session] + ((20 + walked["step"] * 75 + rng.random(len(session)) * 40) * SECOND).astype(np.int64)

    def logistic(offset: float) -> np.ndarray:
        return rng.random(len(session)) < 1 / (1 + np.exp(-(offset + wanted)))

    carted = logistic(-1.1) & world["in_stock"][item]
    bought = carted & logistic(0.2)
    everything, shelf = np.arange(len(session)), np.sort(walked["noticed"], axis=1)
    row, place = np.nonzero((shelf >= 0) & (np.diff(shelf, axis=1, prepend=-2) != 0))  # each once
    parts = [
        (row, shelf[row, place], "impression", -5),
        (everything, None, "view", 0),
        (np.flatnonzero(logistic(-1.7)), None, "favourite", 8),
        (np.flatnonzero(carted), None, "cart", 15),
        (np.flatnonzero(bought), None, "purchase", 30),
    ]
    frames = [
        _events(person[rows], item[rows] if shown is None else shown, kind, at[rows] + delay * SECOND, world)
        .with_columns(session=pl.Series(session[rows]), platform=visits["platform"].gather(session[rows]))
        for rows, shown, kind, delay in parts
    ]  # fmt: skip
    first = np.flatnonzero((walked["step"] == 0) & visits["searched"][session])
    queries = [words["categories"][c]["nouns"] for c in world["category"][item[first]]]
    language = rng.integers(2, size=len(first))
    texts = [nouns[rng.integers(len(nouns))][language[i]] for i, nouns in enumerate(queries)]
    searches = _events(person[first], item[first], "search", at[first] - 15 * SECOND, world).with_columns(
        item_id=pl.lit(None, world["item_ids"].dtype), price=pl.lit(None, pl.Float64), query=pl.Series(texts, dtype=pl.String),
        session=pl.Series(session[first]), platform=visits["platform"].gather(session[first]),
    )  # fmt: skip
    events = pl.concat([*frames, searches], how="diagonal")
    return events.with_columns(session_id=pl.format("s{}", "session")).drop("session")


def _refills(
    walked: pl.DataFrame, tastes: dict, goods: pl.DataFrame, world: dict, days: int, rng: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The events of what is bought again as it is used up; and, of who keeps to what, when they will buy it after the last of the days."""
    first = walked.filter(pl.col("event") == "purchase").sort("timestamp", "user_id", "item_id").unique(
        ["user_id", "item_id"], keep="first", maintain_order=True
    )  # fmt: skip
    person, item = (first[c].to_physical().to_numpy().astype(int) for c in ("user_id", "item_id"))
    cycle = world["cycle"][world["category"][item]]
    keeps = np.flatnonzero((cycle > 0) & (rng.random(len(item)) < KEEP))
    person, item, cycle = person[keeps], item[keeps], cycle[keeps]
    at = (first["timestamp"].to_numpy()[keeps] - START) / np.timedelta64(1, "s") / 86400  # days
    pace = np.exp(rng.normal(0, PACE, len(tastes["peak"])))
    ahead, going, rounds = np.full(len(at), np.nan), np.arange(len(at)), []
    while len(going):
        who = person[going]
        due = at[going] + cycle[going] * pace[who] * np.exp(rng.normal(0, JITTER, len(going)))
        at[going] = np.floor(due) + (tastes["peak"][who] + rng.random(len(going))) / 24 - tastes["ahead"][who] / 86400
        going = going[rng.random(len(going)) < KEEP_ON]
        later = going[at[going] >= days]
        ahead[later] = at[later]
        going = going[at[going] < days]
        rounds.append((going, (at[going] * DAY).astype(np.int64)))
    rows = np.concatenate([r for r, _ in rounds] or [np.empty(0, int)])
    when = np.concatenate([w for _, w in rounds] or [np.empty(0, int)])
    platform = pl.Series("platform", tastes["platform"][person[rows]].tolist(), dtype=walked.schema["platform"])
    session = pl.select(pl.format("r{}", pl.int_range(len(rows)))).to_series().alias("session_id")
    events = [
        _events(person[rows], item[rows], kind, when + delay * SECOND, world).with_columns(platform, session)
        for kind, delay in (("view", 0), ("cart", 15), ("purchase", 30))
    ]
    keeping = np.flatnonzero(np.isfinite(ahead))
    truth = pl.DataFrame(
        {"user_id": tastes["table"]["user_id"].gather(person[keeping]), "item_id": goods["item_id"].gather(item[keeping]),
         "timestamp": pl.Series((START + (ahead[keeping] * DAY).astype(np.int64)).astype("datetime64[us]")).dt.replace_time_zone("UTC")}
    )  # fmt: skip
    return pl.concat(events), truth


def _returns(walked: pl.DataFrame, days: int, rng: np.random.Generator) -> pl.DataFrame:
    """What of the purchases is sent back within days."""
    bought = walked.filter(pl.col("event") == "purchase")
    late = pl.Series((rng.uniform(2, 8, len(bought)) * DAY).astype(np.int64)).cast(pl.Duration("us"))
    back = bought.with_columns(pl.col("timestamp") + late, event=pl.lit("return", KINDS)).filter(
        pl.Series(rng.random(len(bought)) < RETURNED)
    )
    return back.filter(pl.col("timestamp").dt.replace_time_zone(None) < START + days * np.timedelta64(1, "D"))


def _events(person: np.ndarray, item: np.ndarray, kind: str, at: np.ndarray, world: dict) -> pl.DataFrame:
    """Rows of one kind; `at` in microseconds since the start."""
    when = pl.Series((START + at).astype("datetime64[us]")).dt.replace_time_zone("UTC")
    return pl.DataFrame(
        {
            "user_id": world["user_ids"].gather(person),
            "item_id": world["item_ids"].gather(item),
            "event": pl.repeat(kind, len(person), dtype=KINDS, eager=True),
            "timestamp": when,
            "price": world["price"][item],
            "quantity": pl.repeat(1.0 if kind == "purchase" else None, len(person), dtype=pl.Float64, eager=True),
        }
    )


def _campaigns(
    words: dict, users: pl.DataFrame, tastes: dict, goods: pl.DataFrame, world: dict, days: int, rng: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The events of the campaigns of all these days, and of each push the truth."""
    truth = persuasion.Truth.of(tastes["table"], goods, words["channels"])
    when = np.arange(1.0, days - 1, words["days_between_campaigns"])
    events, truths = [], []
    for day, pushes in zip(when, persuasion.campaigns(truth, world["in_stock"], when.tolist(), rng), strict=True):
        shopper, answers, channel = pushes.shopper, pushes.answers, words["channels"][pushes.channel]["name"]
        name, count = f"{str(START + int(day * DAY))[:10]} {channel}", len(shopper)
        at = (
            int(day * DAY)
            + ((pushes.hour + rng.random(count)) * 3600 * SECOND).astype(np.int64)
            - tastes["ahead"][shopper] * SECOND
        )
        later = (600 + rng.exponential(0.4 * 86400, count).clip(max=2 * 86400)).astype(np.int64) * SECOND
        logged = {"channel": pl.lit(channel), "campaign_id": pl.lit(name)}
        request = pl.Series([f"{name} {user}" for user in shopper.tolist()])
        for rows, kind, delay, told in (
            (pushes.sent, "impression", np.zeros(count, int), logged | {"position": pl.lit(1.0)}),
            (~pushes.sent, "holdout", np.zeros(count, int), logged),
            (answers.clicked, "click", np.full(count, 60 * SECOND), {}),
            (answers.bought, "purchase", later, {}),
        ):
            some = np.flatnonzero(rows)
            pushed = _events(shopper[some], pushes.item[some], kind, (at + delay)[some], world)
            answered = request.gather(some)
            if kind == "purchase":  # one that no click led to names no request
                answered = pl.select(pl.when(pl.Series(answers.clicked[some])).then(pl.Series(answered))).to_series()
            platform = pl.Series("platform", tastes["platform"][shopper[some]].tolist(), dtype=pl.Enum(list(words["platforms"])))
            if "channel" in told:
                told = told | {"propensity": pl.Series(pushes.propensity[some])}
            events.append(pushed.with_columns(platform, request_id=answered, **told))
        truths.append(
            pl.DataFrame({"campaign": name, "user_id": users["user_id"].gather(shopper), "item_id": goods["item_id"].gather(pushes.item),
                          "channel": channel, "exposed": pushes.sent, "base_probability": pushes.chances.buys,
                          "uplift": pushes.chances.gains, "bought": answers.bought, "left": answers.left})
        )  # fmt: skip
    return pl.concat(events, how="diagonal"), pl.concat(truths)


def _without_left(users: pl.DataFrame, uplift: pl.DataFrame) -> pl.DataFrame:
    """Users without the channels that they left."""
    left = uplift.filter("left").group_by("user_id").agg(pl.col("channel").unique().alias("left"))
    stay = pl.col("channels").str.split(" ").list.set_difference(pl.col("left").fill_null([])).list.sort().list.join(" ")
    return users.join(left, on="user_id", how="left", maintain_order="left").with_columns(channels=stay).drop("left")


def _dirty(events: pl.DataFrame, share: float, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Breaks `share` of the rows as real logs are broken, adds bots, and lets some events arrive late."""
    kinds = ["duplicate", "no user", "no item", "no time", "impossible price", "unknown item", "unknown event"]
    broken = rng.random(len(events)) < share
    whole = pl.Enum(["", *kinds, "bot"])
    code = np.where(broken, 1 + rng.choice(len(kinds), len(events)), 0).astype(np.uint8)
    events = events.with_columns(kind=pl.Series(whole.categories, dtype=whole).gather(code))

    copies = events.filter(pl.col("kind") == "duplicate")
    kind = pl.when((pl.col("kind") == "no item") & (pl.col("event") == "search")).then(pl.lit("no user", whole))
    kind = kind.when(pl.col("kind") == "duplicate").then(pl.lit("", whole)).otherwise("kind")
    events = pl.concat([events.with_columns(kind=kind), copies])
    for name, column, value in (
        ("no user", "user_id", None),
        ("no item", "item_id", None),
        ("no time", "timestamp", None),
        ("impossible price", "price", -1.0),
        ("unknown item", "item_id", STRAY_ITEM),
        ("unknown event", "event", "hover"),
    ):
        is_broken = pl.col("kind") == name
        events = events.with_columns(
            pl.when(is_broken).then(pl.lit(value, events.schema[column])).otherwise(pl.col(column)).alias(column)
        )
    if share:
        events = pl.concat([events, _bots(events, rng)], how="diagonal").with_columns(
            pl.col("kind").fill_null(pl.lit("bot", whole))
        )
    # Late and out of order: a few events reach the log minutes after they happened.
    delay = np.where(rng.random(len(events)) < share, rng.exponential(1800.0, len(events)), 0.0) * SECOND
    arrival = pl.col("timestamp").fill_null(strategy="forward").cast(pl.Int64) + pl.Series(delay.astype(np.int64))
    events = _ordered(events, events.select(pl.arg_sort_by(arrival, maintain_order=True)).to_series())
    events = events.with_row_index("source_row", 1)
    dirt = events.filter(pl.col("kind") != "").select("source_row", "event_id", pl.col("kind").cast(pl.String))
    return events, dirt


def _bots(events: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Two crawlers that view thousands of items within the hour."""
    items = events.filter(pl.col("kind") == "").get_column("item_id").drop_nulls().unique().sort()
    start = events["timestamp"].drop_nulls().sort().gather([len(events) // 3, len(events) // 2]).dt.epoch("us")
    rows = []
    for crawler, at in zip(CRAWLERS, start, strict=True):
        count = 2400
        times = at + (np.sort(rng.random(count)) * 3000 * SECOND).astype(np.int64)
        rows.append(
            pl.DataFrame(
                {
                    "event_id": [f"b{crawler[-1]}-{i}" for i in range(count)],
                    "user_id": [crawler] * count,
                    "item_id": items.gather(rng.integers(len(items), size=count)),
                    "event": ["view"] * count,
                    "timestamp": pl.Series(times).cast(TIMESTAMP),
                    "platform": ["web"] * count,
                },
                schema_overrides={c: events.schema[c] for c in ("user_id", "event", "platform")},
            )
        )
    return pl.concat(rows)


def _draw(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One index a row, drawn by the row's weights. (n, c) -> (n,)"""
    total = weights.cumsum(1)
    return (total < rng.random((len(weights), 1)) * total[:, -1:]).sum(1).clip(max=weights.shape[1] - 1)
