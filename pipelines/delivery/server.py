"""Answers /unsubscribe/TOKEN, the links that messages carry: `python -m pipelines.delivery listen`, on the loopback address; whoever shows it to the world stands before it.

GET opts out at once and shows a page with a way back; POST is what mail programs send for List-Unsubscribe-Post (RFC 8058). A token that is not ours is a 404 and changes nothing.
"""

import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from marketing import unsubscribing
from marketing.outbox import Outbox
from privacy.people import People

HARMLESS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE = """<!doctype html><meta charset=utf-8><meta name=viewport content="width=device-width"><meta name=robots content=noindex><title>{title}</title>
<style>body{{font:17px/1.6 system-ui,sans-serif;margin:15vh auto;max-width:28rem;padding:0 1rem;color:#1a202c}} button{{font:inherit;padding:.3rem 1rem}}</style>
<h1>{title}</h1><p>{text}</p><form method=post><input type=hidden name=back value={back}><button>{button}</button></form>"""
OUT = PAGE.format(
    title="You will get no more of these",
    text="No more messages of this kind are sent to you. 您不会再收到此类消息。",
    back="1",
    button="It was a mistake 恢复订阅",
)
BACK = PAGE.format(
    title="You will get them again",
    text="Messages of this kind are sent to you again. 已恢复订阅。",
    back="",
    button="No more of these 退订",
)


def app(secret: bytes, outbox: Callable[[], Outbox], people: People) -> Starlette:
    """The application. outbox: opens it, once. people: by which names it knows them."""
    box = outbox()

    async def unsubscribe(request: Request) -> Response:
        found = unsubscribing.said(secret, request.path_params["token"])
        if found is None:
            return PlainTextResponse("this link is not one of ours", 404, HARMLESS)
        user_id, channel, topic = found
        user_id = people.added([user_id]).get(user_id, user_id)
        back = request.method == "POST" and (await request.form()).get("back") == "1"
        if back:
            box.opt_in(user_id, channel, topic)
        else:
            box.opt_out(user_id, time.time(), channel, topic)
        return HTMLResponse(BACK if back else OUT, headers=HARMLESS)

    return Starlette(routes=[Route("/unsubscribe/{token}", unsubscribe, methods=["GET", "POST"])])
